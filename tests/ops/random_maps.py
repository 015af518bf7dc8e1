"""Random calls of the ops over maps of pixels."""

import torch
import torch.nn.functional as F
from random_inputs import Random
from random_tolerance import exact

from illume_fast.ops import spatial_norm


def check_spatial_norm(r: Random) -> None:
    groups, small = r.number(1, 6), (r.number(1, 5), r.number(1, 5))
    batch, channels = r.number(1, 4), groups * r.number(1, 20)
    factor = r.choice((1, 2, 4))
    size = [side * factor for side in small] if r.chance(0.7) else [r.number(1, 20), r.number(1, 20)]
    # the numbers of a group are of one size: a mean far above the spread is another matter
    x = r.laid_out(torch.randn(batch, channels, *size, generator=r.gen) * r.choice((1.0, 1e-3, 30.0)))
    weight, bias = (r.laid_out(torch.randn(channels, generator=r.gen)) for _ in range(2))
    scale, shift = (r.laid_out(torch.randn(batch, channels, *small, generator=r.gen)) for _ in range(2))
    eps, silu = r.choice((1e-6, 1e-3)), r.chance(0.5)
    if r.chance(0.1):
        x = x.clone()
        x[0, 0, 0, 0] = r.choice((torch.nan, torch.inf))
    actual = spatial_norm(x, weight, bias, scale, shift, groups, eps, silu)
    maps = (F.interpolate(exact(m), size=tuple(size)) for m in (scale, shift))
    expected = F.group_norm(exact(x), groups, exact(weight), exact(bias), eps)
    for i, m in enumerate(maps):
        expected = expected * m if i == 0 else expected + m
    expected = F.silu(expected) if silu else expected
    assert actual.shape == x.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    known = expected.isfinite()
    assert not actual.cpu()[~known.cpu()].isfinite().any()
    # a group of almost equal numbers is divided by little more than their rounding
    spread = exact(x).unflatten(1, (groups, -1)).flatten(2).var(2, unbiased=False)
    if bool((spread[spread.isfinite()] > 1e-3 * eps).all()):
        bound = 1e-4 * (1 + expected[known].abs().amax()) if known.any() else 1.0
        assert bool(((exact(actual) - expected)[known].abs() <= bound).all())
