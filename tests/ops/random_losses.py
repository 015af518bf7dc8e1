"""Random calls of the loss of a head, with its gradients."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from random_inputs import DTYPES, Random
from random_tolerance import EPS, assert_within, exact
from support import DEVICE

from illume_fast.ops import cross_entropy_within_ranges, linear_cross_entropy


def inputs(r: Random):
    """(x, weight, labels): logits of some scale, some rows ignored, now and then a row that is no number."""
    dtype = r.choice(DTYPES)
    rows, codes, size = r.size(40), max(1, r.size(huge=9000)), r.size(70)
    x = torch.randn(rows, size, generator=r.gen)
    if rows and r.chance(0.1):
        x[r.number(0, rows)] = torch.nan
    weight = torch.randn(codes, size, generator=r.gen) * r.choice((0.0, 0.1, 3.0, 30.0))
    labels = r.integers(0, codes, rows)
    labels[torch.rand(rows, generator=r.gen) < r.choice((0.0, 0.5, 1.0))] = -100
    return r.laid_out(x.to(dtype)), r.laid_out(weight.to(dtype)), labels


def wide_of(x, weight, labels):
    """Both in float64; what ignored rows hold is not looked at."""
    return exact(x).masked_fill((labels < 0)[:, None], 0.0), exact(weight)


def assert_loss(actual, leaves, expected, wide, scale) -> None:
    """Losses and gradients of both leaves are those of the wide ones."""
    size, eps = leaves[0].shape[1], EPS[leaves[0].dtype]
    assert_within(actual, expected.detach(), (size + 8) * 2**-22 * (scale + 1.0 + expected.detach().abs()))
    grads = (torch.autograd.grad(y.sum(), t) for y, t in ((actual, leaves), (expected, wide)))
    worst = (size + 8) * 2**-22 * scale[scale.isfinite()].amax() if scale.isfinite().any() else 0.0
    for a, e in zip(*grads, strict=True):
        usual = e[e.isfinite()]
        most = usual.abs().amax() if usual.numel() else torch.zeros(())
        assert_within(a, e, (8 * eps + 1e-5 + worst) * (most + 1.0))


def check_linear_cross_entropy(r: Random) -> None:
    x, weight, labels = inputs(r)
    leaves = [t.requires_grad_() for t in (x, weight)]
    wide = [t.requires_grad_() for t in wide_of(x, weight, labels)]
    actual = linear_cross_entropy(*leaves, labels.to(DEVICE), reduction="none")
    expected = F.cross_entropy(wide[0] @ wide[1].T, labels, reduction="none")
    scale = (wide[0].abs() @ wide[1].abs().T).amax(1).detach()
    assert_loss(actual, leaves, expected, wide, scale)


def check_cross_entropy_within_ranges(r: Random) -> None:
    x, weight, labels = inputs(r)
    cuts = sorted(r.number(0, len(weight) + 1) for _ in range(r.number(0, 4)))
    ends = [0, *cuts, len(weight)]
    ranges = list(pairwise(ends))
    leaves = [t.requires_grad_() for t in (x, weight)]
    wide = [t.requires_grad_() for t in wide_of(x, weight, labels)]
    actual = cross_entropy_within_ranges(*leaves, labels.to(DEVICE), ranges, reduction="none")
    expected = torch.zeros(len(labels), dtype=torch.float64)
    for lo, hi in ranges:
        own = ((labels >= lo) & (labels < hi)).nonzero()[:, 0]
        expected = expected.index_add(
            0, own, F.cross_entropy(wide[0][own] @ wide[1][lo:hi].T, labels[own] - lo, reduction="none")
        )
    scale = (wide[0].abs() @ wide[1].abs().T).amax(1).detach()
    assert_loss(actual, leaves, expected, wide, scale)
