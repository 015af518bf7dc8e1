"""What follows the search for codes, in Triton; contracts are in `illume_fast.ops.quantize`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from illume_fast.kernels.triton.by_code import sort_by_code, total_of_code, warps

_TILE = 1024  # numbers of a program, if a row has no more


def _tile(rows: int, size: int) -> tuple[tuple[int], dict[str, int]]:
    """(grid, constants) of kernels whose programs take some whole rows each."""
    wide = triton.next_power_of_2(size)
    at_once = max(1, _TILE // wide)
    return (triton.cdiv(rows, at_once),), {"ROWS": at_once, "WIDE": wide, "num_warps": warps(at_once * wide)}


def forward(x: Tensor, codebook: Tensor, ids: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    error, error_again = (torch.zeros(ids.shape, device=x.device) for _ in range(2))
    (codes, size), rows = codebook.shape, ids.numel()
    if values.numel() > 0:
        flat = x.reshape(rows, size)
        grid, constants = _tile(rows, size)
        forward_kernel[grid](
            flat, *flat.stride(), codebook.contiguous(), ids.contiguous(), values, error, error_again, rows, codes,
            size, **constants,
        )  # fmt: skip
    return values, error, error_again


def backward(
    grad: Tensor | None, error_grad: Tensor | None, x: Tensor, codebook: Tensor, ids: Tensor, gradient: str
) -> Tensor:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (codes, size), rows = codebook.shape, ids.numel()
    if grad_x.numel() > 0:
        flat = x.reshape(rows, size)
        grid, constants = _tile(rows, size)
        backward_kernel[grid](
            None if grad is None else grad.contiguous(), None if error_grad is None else error_grad.contiguous(),
            flat, *flat.stride(), codebook.contiguous(), ids.contiguous(), grad_x, rows, codes, size,
            ROTATE=gradient == "rotation" and grad is not None, **constants,
        )  # fmt: skip
    return grad_x


def codebook_gradient(error_grad: Tensor, x: Tensor, codebook: Tensor, ids: Tensor) -> Tensor:
    grad_codebook = torch.empty(codebook.shape, dtype=codebook.dtype, device=codebook.device)
    (codes, size), rows = codebook.shape, ids.numel()
    if grad_codebook.numel() > 0:
        flat = x.reshape(rows, size)
        order, bounds = sort_by_code(ids.reshape(-1), codes)
        codebook_gradient_kernel[(codes,)](
            flat, *flat.stride(), error_grad.reshape(-1), order, bounds, codebook.contiguous(), grad_codebook, size,
            WIDE=triton.next_power_of_2(size), num_warps=warps(size),
        )  # fmt: skip
    return grad_codebook


@triton.jit
def _load(x, row_stride, stride, codebook, ids, rows, codes, size, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """(row, d, whether the numbers are there, x, code, whether the ids are in range) of a program's rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDE)
    there = row < rows
    inside = there[:, None] & (d < size)[None, :]
    own = tl.load(ids + row, mask=there, other=0)
    good = (own >= 0) & (own < codes)
    at = tl.where(good, own, 0)[:, None] * size + d[None, :]
    code = tl.load(codebook + at, mask=inside & good[:, None], other=0.0).to(tl.float32)
    value = tl.load(x + row[:, None] * row_stride + d[None, :] * stride, mask=inside, other=0.0).to(tl.float32)
    return row, d, inside, value, code, good


@triton.jit
def forward_kernel(
    x, row_stride, stride, codebook, ids, values, error, error_again, rows, codes, size, ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """The codes and how far they are from x."""
    row, d, inside, value, code, good = _load(x, row_stride, stride, codebook, ids, rows, codes, size, ROWS, WIDE)
    off = tl.where(inside, code - value, 0.0)
    mean = tl.where(good, tl.sum(off * off, 1) / size, float("nan"))
    tl.store(error + row, mean, mask=row < rows)
    tl.store(error_again + row, mean, mask=row < rows)
    code = tl.where(good[:, None], code, float("nan"))
    tl.store(values + row[:, None] * size + d[None, :], code.to(values.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    grad, error_grad, x, row_stride, stride, codebook, ids, grad_x, rows, codes, size, ROTATE: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradient of x from those of the values and of the error, either of which may be None.

    `ROTATE`: the former becomes lambda R^T grad, for R = 1 - 2 r r^T + 2 q e^T with the directions e of x, q of the
    code and r of e + q.
    """
    row, d, inside, value, code, good = _load(x, row_stride, stride, codebook, ids, rows, codes, size, ROWS, WIDE)
    a, b = value.to(tl.float64), code.to(tl.float64)
    to = row[:, None] * size + d[None, :]
    total = tl.zeros([ROWS, WIDE], tl.float64)
    if grad is not None:
        total = tl.load(grad + to, mask=inside, other=0.0).to(tl.float64)
    if ROTATE:
        length, code_length = tl.sqrt(tl.sum(a * a, 1)), tl.sqrt(tl.sum(b * b, 1))
        some = (length != 0) & (code_length != 0)
        length, code_length = tl.where(some, length, 1.0), tl.where(some, code_length, 1.0)
        near = 1.0 + tl.sum(a * b, 1) / (length * code_length)
        turned = some & ((near <= 1e-8) == 0)
        near = tl.where(turned, near, 1.0)
        scale = code_length / length
        along_code = tl.sum(total * b, 1) / code_length
        along_both = (tl.sum(total * a, 1) / length + along_code) / near
        of_x = scale * (2.0 * along_code - along_both) / length
        of_code = -scale * along_both / code_length
        rotated = scale[:, None] * total + of_x[:, None] * a + of_code[:, None] * b
        total = tl.where(turned[:, None], rotated, total)
    if error_grad is not None:
        pull = 2.0 * tl.load(error_grad + row, mask=row < rows, other=0.0).to(tl.float64) / size
        total += pull[:, None] * (a - b)
    result = tl.where(good[:, None], total.to(tl.float32), float("nan"))
    tl.store(grad_x + to, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def codebook_gradient_kernel(
    x, row_stride, stride, error_grad, order, bounds, codebook, grad_codebook, size, WIDE: tl.constexpr
):
    """Program k: the gradient of code k."""
    code = tl.program_id(0).to(tl.int64)
    total, weight = total_of_code(
        x, row_stride, stride, error_grad, order, tl.load(bounds + code), tl.load(bounds + code + 1), size, WIDE, True
    )
    d = tl.arange(0, WIDE)
    value = tl.load(codebook + code * size + d, mask=d < size, other=0.0).to(tl.float64)
    slope = (2.0 * (weight * value - total) / size).to(tl.float32)
    tl.store(grad_codebook + code * size + d, slope.to(grad_codebook.dtype.element_ty), mask=d < size)
