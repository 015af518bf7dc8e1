"""Cross entropy of linear logits in Triton; contracts are in `illume_fast.ops.linear_cross_entropy`.

The forward pass keeps of each row and chunk of the vocabulary the largest logit and the sum of exponentials. The
backward pass makes the gradient of a chunk's logits, whose products with the weight and with x are torch's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from illume_fast.kernels.kept_rows import kept_rows, put_back
from illume_fast.kernels.triton import dot_widens

_TILE = {"ROWS": 64, "CODES": 64, "SIZES": 32, "WIDEN": dot_widens(), "num_warps": 8}
_CHUNK = 4096  # codes of a program of the forward pass
_HELD = 1 << 26  # gradients of logits held at once
_FEWEST = 1024


def forward(x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(losses, normalizers), float32 [T], 0 for ignored rows; NaN for a label out of range, which nobody is told of."""
    rows, kept, own = kept_rows(x, labels, ignore_index)
    rows = rows.contiguous()
    codes, size = weight.shape
    chunks = triton.cdiv(codes, _CHUNK)
    largest, mass = torch.empty(2, len(rows), chunks, device=x.device)
    logit = torch.full((len(rows),), torch.nan, device=x.device)
    if len(rows):
        weight = weight.contiguous()
        statistics_kernel[(triton.cdiv(len(rows), _TILE["ROWS"]), chunks)](
            rows, weight, own, largest, mass, logit, len(rows), codes, size, chunks, CHUNK=_CHUNK, **_TILE
        )
    normalizers = (largest + mass.log()).logsumexp(1)
    losses = normalizers - logit
    return put_back(losses, kept, len(x)), put_back(normalizers, kept, len(x))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, labels: Tensor, normalizers: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight."""
    rows, kept, own = kept_rows(x, labels, ignore_index)
    rows = rows.contiguous()
    grad, normalizers = (t.contiguous() if kept is None else t[kept] for t in (grad, normalizers))
    weight = weight.contiguous()
    grad_rows, grad_weight = torch.zeros(rows.shape, device=x.device), torch.empty_like(weight)
    step = min(len(weight), max(_FEWEST, _HELD // max(1, len(rows))))
    for first in range(0, len(weight), max(1, step)):
        part = weight[first : first + step]
        logits = torch.empty(len(rows), len(part), dtype=x.dtype, device=x.device)
        if logits.numel():
            grid = (triton.cdiv(len(rows), _TILE["ROWS"]), triton.cdiv(len(part), _TILE["CODES"]))
            gradient_kernel[grid](
                rows, part, own, normalizers, grad, logits, len(rows), len(part), rows.shape[1], first, **_TILE
            )
        grad_rows += logits @ part
        torch.mm(logits.T, rows, out=grad_weight[first : first + step])
    return put_back(grad_rows.to(x.dtype), kept, len(x)), grad_weight


@triton.jit
def _logits(
    x, weight, row, code, rows, codes, size,
    ROWS: tl.constexpr, CODES: tl.constexpr, SIZES: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """float32 [ROWS, CODES] of rows `row` [ROWS] and codes `code` [CODES]; 0 where there are none."""
    d = tl.arange(0, SIZES)
    total = tl.zeros([ROWS, CODES], tl.float32)
    for start in range(0, size, SIZES):
        inside = start + d < size
        a = tl.load(
            x + row[:, None] * size + start + d[None, :], mask=(row < rows)[:, None] & inside[None, :], other=0.0
        )
        b = tl.load(
            weight + code[None, :] * size + start + d[:, None],
            mask=(code < codes)[None, :] & inside[:, None],
            other=0.0,
        )
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def statistics_kernel(
    x, weight, labels, largest, mass, logit, rows, codes, size, chunks,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, CODES: tl.constexpr, SIZES: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Program (i, c): the largest logit of chunk c, the sum of exp(logit - largest), and the labels' logits in it."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    label = tl.load(labels + row, mask=there, other=-1)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    chunk = tl.program_id(1)
    for start in range(0, CHUNK, CODES):
        code = chunk.to(tl.int64) * CHUNK + start + tl.arange(0, CODES)
        scores = _logits(x, weight, row, code, rows, codes, size, ROWS, CODES, SIZES, WIDEN)
        own = code[None, :] == label[:, None]
        tl.store(logit + row, tl.sum(tl.where(own, scores, 0.0), 1), mask=tl.max(own.to(tl.int32), 1) > 0)
        scores = tl.where((code < codes)[None, :], scores, float("-inf"))
        more = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(more == float("-inf"), 0.0, more)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(scores - base[:, None]), 1)
        top = more
    tl.store(largest + row * chunks + chunk, top, mask=there)
    tl.store(mass + row * chunks + chunk, total, mask=there)


@triton.jit
def gradient_kernel(
    x, weight, labels, normalizers, grads, out, rows, codes, size, first,
    ROWS: tl.constexpr, CODES: tl.constexpr, SIZES: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Program (i, j): grad * (softmax - one at the label) for a tile; `weight` begins at code `first`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    code = tl.program_id(1).to(tl.int64) * CODES + tl.arange(0, CODES)
    there = row < rows
    shares = tl.exp(
        _logits(x, weight, row, code, rows, codes, size, ROWS, CODES, SIZES, WIDEN)
        - tl.load(normalizers + row, mask=there, other=0.0)[:, None]
    )
    label = tl.load(labels + row, mask=there, other=-1)
    shares = shares - (first + code[None, :] == label[:, None]).to(tl.float32)
    slopes = shares * tl.load(grads + row, mask=there, other=0.0)[:, None]
    inside = there[:, None] & (code < codes)[None, :]
    tl.store(out + row[:, None] * codes + code[None, :], slopes.to(out.dtype.element_ty), mask=inside)
