"""Nearest code in Triton; contracts are in `illume_fast.ops.nearest_code`, the method is that of csrc/cuda.

Tensor cores score rounded codes and keep the best of each block; bounds on the rounding tell which blocks may hold the
answer; the codes of those are looked at in float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from illume_fast.kernels.cpu.nearest_code import METRIC_CODES
from illume_fast.kernels.cuda.nearest_code import BLOCK, pack
from illume_fast.kernels.triton import dot_widens

_ROWS = 64  # queries of a program
_CHUNK = 32  # numbers of a vector at once


def run(x: Tensor, codebook: Tensor, metric: str = "l2") -> Tensor:
    """The op's arguments; int64 ids [...]."""
    ids = torch.empty(x.shape[:-1], dtype=torch.int64, device=x.device)
    size = codebook.shape[1]
    if ids.numel() == 0:
        return ids
    if size == 0:
        return ids.zero_()  # all codes are equal
    packed = pack(codebook, metric)
    rows = x.reshape(-1, size)
    width, blocks = packed.rounded.shape[1], len(packed.longest)
    rounded = torch.empty(len(rows), width, dtype=torch.bfloat16, device=x.device)
    lengths, errors = torch.empty(2, len(rows), device=x.device)
    best = torch.empty(len(rows), blocks, device=x.device)
    wide = triton.next_power_of_2(width)
    round_kernel[(len(rows),)](
        rows, rows.stride(0), rows.stride(1), packed.center, rounded, lengths, errors, size, width, WIDE=wide
    )
    parts = min(blocks, max(1, 512 // triton.cdiv(len(rows), _ROWS)))
    per_part = triton.cdiv(blocks, parts)
    score_kernel[(triton.cdiv(len(rows), _ROWS), triton.cdiv(blocks, per_part))](
        rounded, packed.rounded, packed.offsets, best, len(rows), blocks, per_part, width,
        ROWS=_ROWS, CODES=BLOCK, CHUNK=_CHUNK if width % _CHUNK == 0 else 16, WIDEN=dot_widens(),
    )  # fmt: skip
    refine_kernel[(len(rows),)](
        rows, rows.stride(0), rows.stride(1), packed.codes, packed.offsets, packed.longest, packed.errors, lengths,
        errors, best, ids, size, blocks, packed.longest_of_all,
        METRIC=METRIC_CODES[metric], BLOCKS=triton.next_power_of_2(blocks), CODES=BLOCK, CHUNK=min(64, wide),
    )  # fmt: skip
    return ids


@triton.jit
def round_kernel(x, row_stride, stride, center, rounded, lengths, errors, size, width, WIDE: tl.constexpr):
    """Program i rounds query i, less the center, to bfloat16; bounds on its length and on what rounding took."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDE)
    given = tl.load(x + row * row_stride + d * stride, mask=d < size, other=0.0).to(tl.float32)
    moved = given - tl.load(center + d, mask=d < size, other=0.0)
    near = moved.to(tl.bfloat16)
    tl.store(rounded + row * width + d, near, mask=d < width)
    exact = moved.to(tl.float64)
    lost = exact - near.to(tl.float64)
    good = tl.min((tl.abs(given) < float("inf")).to(tl.int32), 0) == 1
    length = tl.sqrt(tl.sum(exact * exact, 0)) * 1.000001
    error = tl.sqrt(tl.sum(lost * lost, 0)) * 1.000001
    fits = length < 1e37
    tl.store(lengths + row, tl.where(good, tl.where(fits, length, float("inf")), -1.0).to(tl.float32))
    tl.store(errors + row, tl.where(fits, error, float("inf")).to(tl.float32))


@triton.jit
def score_kernel(
    rounded, codes, offsets, best, rows, blocks, per_part, width,
    ROWS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Program (i, j) scores ROWS queries against its part of the blocks and keeps the best score of each."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    code, d = tl.arange(0, CODES), tl.arange(0, CHUNK)
    first = tl.program_id(1) * per_part
    for block in range(first, tl.minimum(first + per_part, blocks)):
        at = (tl.zeros([CODES], tl.int64) + block) * CODES + code
        score = tl.zeros([ROWS, CODES], tl.float32) + tl.load(offsets + at)[None, :]
        for start in range(0, width, CHUNK):
            a = tl.load(rounded + row[:, None] * width + start + d[None, :], mask=there[:, None], other=0.0)
            b = tl.load(codes + at[None, :] * width + start + d[:, None])
            if WIDEN:
                a, b = a.to(tl.float32), b.to(tl.float32)
            score = tl.dot(a, b, score)
        # a NaN must not be lost: its block is then looked at
        score = tl.where(score != score, float("inf"), score)
        tl.store(best + row * blocks + block, tl.max(score, 1), mask=there)


@triton.jit
def _farness(x, stride, codes, at, there, size, CODES: tl.constexpr, CHUNK: tl.constexpr, METRIC: tl.constexpr):
    """How near codes are, float64, less being nearer: squared distance, or the product with the sign changed."""
    total, squares = tl.zeros([CODES], tl.float64), tl.zeros([CODES], tl.float64)
    for start in range(0, size, CHUNK):
        d = start + tl.arange(0, CHUNK)
        inside = d < size
        a = tl.load(x + d * stride, mask=inside, other=0.0).to(tl.float64)[None, :]
        b = tl.load(codes + at[:, None] * size + d[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        b = b.to(tl.float64)
        if METRIC == 0:
            total += tl.sum((a - b) * (a - b), 1)
        else:
            total -= tl.sum(a * b, 1)
        squares += tl.sum(b * b, 1)
    if METRIC == 1:
        total = tl.where(squares > 0, total / tl.sqrt(tl.where(squares > 0, squares, 1.0)), 0.0)
    return tl.where(there, total, float("inf"))


@triton.jit
def refine_kernel(
    x, row_stride, stride, codes, offsets, longest, code_errors, lengths, errors, best, ids, size, blocks,
    longest_of_all, METRIC: tl.constexpr, BLOCKS: tl.constexpr, CODES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program i looks at the blocks that may hold the answer of query i."""
    row = tl.program_id(0).to(tl.int64)
    length, error = tl.load(lengths + row), tl.load(errors + row)
    answer = tl.full([], -1, tl.int64)
    if length >= 0:
        block = tl.arange(0, BLOCKS)
        real = block < blocks
        far_off = tl.load(longest + block, mask=real, other=0.0).to(tl.float64)
        lost = tl.load(code_errors + block, mask=real, other=0.0).to(tl.float64)
        # no less than the error of any score: what rounding took from either factor, and roundings of the sum
        scale = length * far_off + (far_off * far_off / 2 if METRIC == 0 else 0.0)
        bound = 1.01 * (error * far_off + (length + error).to(tl.float64) * lost)
        bound += (tl.zeros([], tl.float64) + size + 8) * (scale * 2.384185791015625e-07 + 4 * 1.1754943508222875e-38)
        bound = tl.where(scale < 1e37, bound, float("inf"))
        score = tl.load(best + row * blocks + block, mask=real, other=float("-inf")).to(tl.float64)
        sure = score - bound
        reached = tl.max(tl.where(real & (sure == sure), sure, float("-inf")), 0)
        wanted = real & ((score + bound < reached) == 0)
        code = tl.arange(0, CODES)
        query = x + row * row_stride
        least = tl.full([], float("inf"), tl.float64)
        left = wanted
        while tl.max(left.to(tl.int32), 0) > 0:
            one = tl.min(tl.where(left, block, BLOCKS), 0)
            at = (tl.zeros([CODES], tl.int64) + one) * CODES + code
            there = tl.load(offsets + at) > float("-inf")
            least = tl.minimum(least, tl.min(_farness(query, stride, codes, at, there, size, CODES, CHUNK, METRIC), 0))
            left = left & (block != one)
        # answers that agree to within the rounding of float64 count as ties, and the lowest id wins
        slack = (tl.zeros([], tl.float64) + size + 4) * 2.220446049250313e-16
        if METRIC == 0:
            slack *= least
        elif METRIC == 1:
            slack *= length.to(tl.float64)
        else:
            slack *= length.to(tl.float64) * longest_of_all
        left = wanted
        found = tl.full([], 9223372036854775807, tl.int64)
        while (tl.max(left.to(tl.int32), 0) > 0) & (found == 9223372036854775807):
            one = tl.min(tl.where(left, block, BLOCKS), 0)
            at = (tl.zeros([CODES], tl.int64) + one) * CODES + code
            there = tl.load(offsets + at) > float("-inf")
            far = _farness(query, stride, codes, at, there, size, CODES, CHUNK, METRIC)
            found = tl.min(tl.where(there & (far <= least + slack), at, 9223372036854775807), 0)
            left = left & (block != one)
        answer = tl.where(found == 9223372036854775807, answer, found)
    tl.store(ids + row, answer)
