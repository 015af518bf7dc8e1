"""Guidance, filters and draw in Triton, one program a row; contracts are in `illume_fast.ops.cfg_sample`.

A row's mixed logits stay in registers as integer keys of the same order, over which thresholds are found by bisection.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

_MINUS_INF = tl.constexpr(-0x7F800000 - 1)  # its key
_SCALE = tl.constexpr(float(1 << 40))
_ROUNDING = tl.constexpr(float(1 << 52))  # adding and taking it off rounds a float64 to a whole number, ties to even


def run(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | None) -> Tensor:
    """The op's arguments; int64 ids [B]."""
    return sample(cond, uncond, 0, parameters[:7], parameters[7:])


def sample(
    cond: Tensor,
    uncond: Tensor | None,
    first: int,
    numbers: Sequence[float | Tensor | None],
    per_row: Sequence[float | Tensor | None],
) -> Tensor:
    """The draws, when the id of a row's first logit is `first`."""
    rows, size = cond.shape
    if rows == 0 or size == 0:
        return cond.new_full((rows,), -1, dtype=torch.int64)
    cond, uncond = (t if t is None or t.stride(1) == 1 else t.contiguous() for t in (cond, uncond))
    ids = torch.empty(rows, dtype=torch.int64, device=cond.device)
    block = triton.next_power_of_2(size)
    sample_kernel[(rows,)](
        cond,
        cond if uncond is None else uncond,
        ids,
        cond.stride(0),
        0 if uncond is None else uncond.stride(0),
        size,
        first,
        *numbers,
        *(v.contiguous() if isinstance(v, Tensor) else None for v in per_row),
        TWO=uncond is not None,
        BLOCK=block,
        num_warps=min(32, max(4, block // 2048)),
    )
    return ids


@triton.jit
def _key(z):
    """float32 -> int32 of the same order; -0 must have become +0."""
    bits = z.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _weight(z, best, inverse):
    """exp((z - best) * inverse) in multiples of 2**-40, int64."""
    scaled = tl.exp((z - best) * inverse).to(tl.float64) * _SCALE
    return (scaled + _ROUNDING - _ROUNDING).to(tl.int64)


@triton.jit
def _least_key(keys, amounts, low, high, limit):
    """The least key from `low` to `high` such that the amounts of the keys above it add up to at most `limit`."""
    low, high = low.to(tl.int64), high.to(tl.int64)
    for _ in range(33):
        middle = (low + high) >> 1
        above = tl.sum(tl.where(keys > middle, amounts, 0), 0)
        fits = above <= limit
        high = tl.where(fits, middle, high)
        low = tl.where(fits, low, tl.minimum(middle + 1, high))
    return high


@triton.jit
def _mixed(cond, uncond, guidance, at, there, TWO: tl.constexpr):
    """(z float32, broken bool) of a row; what is not there is -inf."""
    c = tl.load(cond + at, mask=there, other=float("-inf")).to(tl.float32)
    z = c
    broken = (c < float("inf")) == 0
    if TWO:
        u = tl.load(uncond + at, mask=there, other=float("-inf")).to(tl.float32)
        c = tl.where(guidance == 0, u, c)
        u = tl.where(guidance == 1, c, u)
        # in float64 the product is exact, so that this rounds once, as a fused multiply-add does
        z = (u.to(tl.float64) + guidance.to(tl.float64) * (c - u).to(tl.float64)).to(tl.float32)
        z = tl.where(u == c, c, z)
        z = tl.where((c == float("-inf")) | (u == float("-inf")), float("-inf"), z)
        broken = ((c < float("inf")) == 0) | ((u < float("inf")) == 0) | ((z < float("inf")) == 0)
    return tl.where(z == 0, 0.0, z), broken & there


@triton.jit(do_not_specialize=["size", "first", "top_k", "seed", "step", "cond_stride", "uncond_stride"])
def sample_kernel(
    cond, uncond, ids, cond_stride, uncond_stride, size, first,
    guidance, temperature, top_k, top_p, min_p, seed, step,
    guidance_rows, temperature_rows, top_k_rows, top_p_rows, min_p_rows, seed_rows, step_rows,
    TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program b draws the id of row b."""
    row = tl.program_id(0).to(tl.int64)
    g = guidance + tl.zeros([], tl.float32) if guidance_rows is None else tl.load(guidance_rows + row)
    t = temperature + tl.zeros([], tl.float32) if temperature_rows is None else tl.load(temperature_rows + row)
    k = top_k + tl.zeros([], tl.int64) if top_k_rows is None else tl.load(top_k_rows + row)
    p = top_p + tl.zeros([], tl.float32) if top_p_rows is None else tl.load(top_p_rows + row)
    m = min_p + tl.zeros([], tl.float32) if min_p_rows is None else tl.load(min_p_rows + row)
    key = seed + tl.zeros([], tl.int64) if seed_rows is None else tl.load(seed_rows + row)
    counter = step + tl.zeros([], tl.int64) if step_rows is None else tl.load(step_rows + row)

    at = tl.arange(0, BLOCK)
    there = at < size
    z, broken = _mixed(cond + row * cond_stride, uncond + row * uncond_stride, g, at, there, TWO)
    keys = _key(z)
    top = tl.max(tl.where(there, keys, _MINUS_INF), 0)
    best = tl.max(tl.where(there & (broken == 0), z, float("-inf")), 0)
    good = (tl.max(broken.to(tl.int32), 0) == 0) & (best > float("-inf"))
    good &= (g - g == 0) & (t >= 0) & (t < float("inf")) & (k >= 0) & (p >= 0) & (p <= 1) & (m >= 0) & (m <= 1)
    if good:
        drawn = tl.min(tl.where(there & (keys == top), at, BLOCK), 0)
        if t > 0:
            inverse = tl.minimum(1.0 / t, 3.4028234663852886e38)
            least = tl.zeros([], tl.int64) + (_MINUS_INF + 1)  # masked tokens have no weight
            if (k > 0) & (k < size):
                least = tl.maximum(least, _least_key(keys, tl.where(there, 1, 0).to(tl.int64), least - 1, top, k - 1))
            weights = tl.where(there & (keys >= least), _weight(z, best, inverse), 0)
            if p < 1:
                limit = (p.to(tl.float64) * tl.sum(weights, 0).to(tl.float64)).to(tl.int64)
                least = tl.maximum(least, _least_key(keys, weights, least, top, limit))
            enough = tl.ceil(m.to(tl.float64) * _SCALE).to(tl.int64)
            weights = tl.where((keys >= least) & (weights >= enough), weights, 0)
            total = tl.sum(weights, 0)
            c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
            zero = tl.zeros([], tl.uint32)
            low, high, _, _ = philox_impl(c0, c1, zero, zero, key.to(tl.uint32), (key >> 32).to(tl.uint32))
            target = tl.umulhi((high.to(tl.uint64) << 32) | low.to(tl.uint64), total.to(tl.uint64)).to(tl.int64)
            drawn = tl.min(tl.where(tl.cumsum(weights, 0) > target, at, BLOCK), 0)
        tl.store(ids + row, drawn.to(tl.int64) + first)
    else:
        tl.store(ids + row, -1)
