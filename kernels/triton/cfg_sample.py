"""Guidance, filters and draw in Triton, one program a row; contracts are in `illume_fast.ops.cfg_sample`.

A row's logits are mixed anew in every pass over them, since the first-level cache holds them as a rule; thresholds are
found by bisection over integer keys of the same order. The CUDA form is faster; this one runs wherever Triton does.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

BLOCK, WARPS = 4096, 8  # logits at once, and the warps that share them

_MINUS_INF = tl.constexpr(-0x7F800000 - 1)  # its key
_SCALE = tl.constexpr(float(1 << 40))
_ROUNDING = tl.constexpr(float(1 << 52))  # adding and taking it off rounds a float64 to a whole number, ties to even


def run(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | None) -> Tensor:
    """The op's arguments; int64 ids [B]."""
    return sample(cond, uncond, 0, parameters[:7], parameters[7:14])


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
        BLOCK=min(BLOCK, triton.next_power_of_2(size)),
        num_warps=WARPS,
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
def _mixed(cond, uncond, guidance, at, there, TWO: tl.constexpr):
    """(z float32, broken bool) at places of a row; what is not there is -inf."""
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


@triton.jit
def _mass(cond, uncond, guidance, size, least, above, enough, best, inverse, KIND: tl.constexpr, TWO: tl.constexpr,
          BLOCK: tl.constexpr):  # fmt: skip
    """How many keys exceed `above` (KIND 0), or the mass of those that do, are at least `least` and weigh at least
    `enough` (KIND 1)."""
    total = tl.zeros([], tl.int64)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < size
        z, _ = _mixed(cond, uncond, guidance, at, there, TWO)
        key = _key(z)
        if KIND == 0:
            total += tl.sum((there & (key > above)).to(tl.int32), 0).to(tl.int64)
        else:
            weight = _weight(z, best, inverse)
            kept = there & (key > above) & (key >= least) & (weight >= enough)
            total += tl.sum(tl.where(kept, weight, 0), 0)
    return total


@triton.jit
def _least_key(cond, uncond, guidance, size, least, top, limit, best, inverse, KIND: tl.constexpr, TWO: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    """The least key from `least` to `top` such that the keys above it number, or weigh, at most `limit`."""
    low, high = least, top
    while low < high:
        middle = (low + high) >> 1
        above = _mass(cond, uncond, guidance, size, least, middle, 0, best, inverse, KIND, TWO, BLOCK)
        fits = above <= limit
        high = tl.where(fits, middle, high)
        low = tl.where(fits, low, middle + 1)
    return high


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
    cond += row * cond_stride
    uncond += row * uncond_stride

    best = tl.full([], float("-inf"), tl.float32)
    place = tl.full([], 0, tl.int32)
    bad = tl.full([], 0, tl.int32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < size
        z, broken = _mixed(cond, uncond, g, at, there, TWO)
        bad = tl.maximum(bad, tl.max(broken.to(tl.int32), 0))
        most = tl.max(tl.where(there & (broken == 0), z, float("-inf")), 0)
        where = tl.min(tl.where(there & (z == most), at, 2147483647), 0)
        place = tl.where(most > best, where, place)
        best = tl.maximum(best, most)
    good = (bad == 0) & (best > float("-inf"))
    good &= (g - g == 0) & (t >= 0) & (t < float("inf")) & (k >= 0) & (p >= 0) & (p <= 1) & (m >= 0) & (m <= 1)
    drawn = place
    if good & (t > 0):
        inverse = tl.minimum(1.0 / t, 3.4028234663852886e38)
        top = _key(best).to(tl.int64)
        least = tl.zeros([], tl.int64) + (_MINUS_INF + 1)  # masked tokens have no weight
        if (k > 0) & (k < size):
            least = _least_key(cond, uncond, g, size, least, top, k - 1, best, inverse, 0, TWO, BLOCK)
        if p < 1:
            mass = _mass(cond, uncond, g, size, least, least - 1, 0, best, inverse, 1, TWO, BLOCK)
            limit = (p.to(tl.float64) * mass.to(tl.float64)).to(tl.int64)
            least = _least_key(cond, uncond, g, size, least, top, limit, best, inverse, 1, TWO, BLOCK)
        enough = tl.ceil(m.to(tl.float64) * _SCALE).to(tl.int64)
        total = _mass(cond, uncond, g, size, least, least - 1, enough, best, inverse, 1, TWO, BLOCK)
        c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
        zero = tl.zeros([], tl.uint32)
        low, high, _, _ = philox_impl(c0, c1, zero, zero, key.to(tl.uint32), (key >> 32).to(tl.uint32))
        target = tl.umulhi((high.to(tl.uint64) << 32) | low.to(tl.uint64), total.to(tl.uint64)).to(tl.int64)
        drawn = _find(cond, uncond, g, size, least, enough, best, inverse, target, TWO, BLOCK)
    tl.store(ids + row, tl.where(good, drawn.to(tl.int64) + first, -1))


@triton.jit
def _find(cond, uncond, guidance, size, least, enough, best, inverse, target, TWO: tl.constexpr, BLOCK: tl.constexpr):
    """The first place at which the running mass of what is kept exceeds `target`."""
    found = tl.full([], 2147483647, tl.int32)
    before = tl.zeros([], tl.int64)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < size
        z, _ = _mixed(cond, uncond, guidance, at, there, TWO)
        weight = _weight(z, best, inverse)
        weight = tl.where(there & (_key(z) >= least) & (weight >= enough), weight, 0)
        mass = tl.sum(weight, 0)
        if (before <= target) & (before + mass > target):
            found = tl.min(tl.where(before + tl.cumsum(weight, 0) > target, at, 2147483647), 0)
        before += mass
    return found
