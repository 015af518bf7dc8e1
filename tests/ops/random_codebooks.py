"""Random calls of codebook training: moving averages, and what a search is followed by."""

import torch
from random_inputs import DTYPES, Random
from random_tolerance import EPS, LARGE, TINY, assert_within, exact, roundings
from support import DEVICE

from illume_fast.ops import codebook_ema, quantize


def check_codebook_ema(r: Random) -> None:
    rows, size, codes = r.size(), r.size(70), max(1, r.size(40))
    x = r.values(rows, size, dtype=r.choice(DTYPES), special=False)
    ids = r.integers(-1, codes, rows)
    counts, sums = (
        (torch.rand(codes, generator=r.gen) + 0.01).to(DEVICE),
        r.values(codes, size, special=False, written=True),
    )
    book, decay, eps = (
        r.values(codes, size, dtype=r.choice(DTYPES), special=False, written=True),
        r.choice((0.99, 0.5)),
        1e-5,
    )
    chosen = (ids[:, None] == torch.arange(codes)).double()
    moved = decay * exact(sums) + (1 - decay) * chosen.T @ exact(x)
    scale = decay * exact(sums).abs() + (1 - decay) * chosen.T @ exact(x).abs()
    weights = decay * exact(counts) + (1 - decay) * chosen.sum(0)
    total = weights.sum()
    by = ((weights + eps) * total / (total + codes * eps))[:, None]
    codebook_ema(x, ids.to(DEVICE), counts, sums, book, decay, eps)
    assert_within(counts, weights, 2**-23 * weights)
    assert_within(sums, moved, torch.where(scale < 1e37, 2**-23 * scale + 1e-37, torch.inf))
    slack = (2**-21 + 2 * EPS[book.dtype]) * (scale / by) + TINY[book.dtype] + 1e-37 / by
    assert_within(book, moved / by, torch.where((scale < 1e37) & (scale / by < LARGE[book.dtype]), slack, torch.inf))


def check_quantize(r: Random) -> None:
    dtype, rows, size, codes = r.choice(DTYPES), r.size(40), r.size(100), max(1, r.size(40))
    x = r.values(rows, size, dtype=dtype, special=False).requires_grad_()
    book = r.values(codes, size, dtype=r.choice(DTYPES), special=False).requires_grad_()
    ids, rule = r.integers(0, codes, rows), r.choice(("straight_through", "rotation"))
    values, commitment, distortion = quantize(x, book, ids.to(DEVICE), rule)
    a, b = exact(x), exact(book)[ids]
    assert_within(values, b, roundings(b, dtype))
    error = (a - b).square().sum(1) / max(1, size)
    assert_within(commitment, error, torch.where(error < 1e36, (size + 4) * 2**-23 * error + 1e-36, torch.inf))
    assert torch.equal(commitment, distortion)
    grad = torch.randn(rows, size, generator=r.gen).to(DEVICE, dtype)
    (passed,) = torch.autograd.grad(values, x, grad, retain_graph=True)
    if rule == "straight_through":
        assert torch.equal(passed, grad)
    else:  # the code's length over that of x is all that a rotation changes
        lengths, of_codes = a.norm(dim=1), b.norm(dim=1)
        sure = (lengths > 0) & (of_codes > 0) & (((a * b).sum(1) / (lengths * of_codes)) > -1 + 1e-6)
        expected = torch.where(sure, exact(grad).norm(dim=1) * of_codes / lengths, 0.0)
        few = torch.where(sure & (expected < LARGE[dtype]), 4 * EPS[dtype] * expected + 1e-6 * expected, torch.inf)
        assert_within(exact(passed).norm(dim=1), expected, few + size * TINY[dtype])
    (slope,) = torch.autograd.grad(distortion.sum(), book)
    rows_of = (ids[:, None] == torch.arange(codes)).double().T
    scale = rows_of @ (a.abs() + b.abs()) * 2 / max(1, size)
    slack = (2**-22 + 2 * EPS[book.dtype]) * scale + TINY[book.dtype]
    expected = rows_of @ (b - a) * 2 / max(1, size)
    assert_within(slope, expected, torch.where(scale < LARGE[book.dtype], slack, torch.inf))
