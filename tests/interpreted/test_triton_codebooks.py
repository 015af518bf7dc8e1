"""The Triton kernels of `quantize` and `codebook_ema`; see test_triton.py."""

import pytest
import torch
from support import DEVICE, assert_matches

from illume_fast.ops import codebook_ema, quantize, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def integers(low, high, *shape):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def quantized(backend, x, book, ids, rule):
    x, book = (t.detach().clone().requires_grad_() for t in (x, book))
    with use_backend(backend):
        values, *errors = quantize(x, book, ids, rule)
        slopes = (randn(*values.shape, dtype=values.dtype, seed=2), *(randn(*e.shape, seed=3) for e in errors))
        return values, *errors, *torch.autograd.grad((values, *errors), (x, book), slopes)


@pytest.mark.parametrize("rule", ["straight_through", "rotation"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (70, 30, 33), (2, 4, 1100)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantisation_is_that_of_the_reference(dtype, shape, rule):
    vectors, codes, size = shape
    arguments = randn(vectors, size, dtype=dtype), randn(codes, size, seed=4), integers(0, codes, vectors), rule
    results = (quantized(backend, *arguments) for backend in ("triton", "reference"))
    for name, actual, expected in zip(("values", "own", "other", "x", "book"), *results, strict=True):
        assert_matches(actual, expected.double(), name)


def test_directions_that_cannot_be_turned():
    x = randn(5, 9)
    x[0], x[1], x[2] = 0, 1e-20 * x[1], 1e15 * x[2]
    book = randn(3, 9, seed=1)
    book[1], book[2] = -2 * x[3], 0
    ids = torch.tensor([0, 0, 0, 1, 2], device=DEVICE)
    grads = []
    for backend in ("triton", "reference"):
        leaf = x.detach().clone().requires_grad_()
        with use_backend(backend):
            grads.append(torch.autograd.grad(quantize(leaf, book, ids, "rotation")[0], leaf, randn(5, 9, seed=2))[0])
    for actual, expected in zip(*grads, strict=True):
        assert_matches(actual, expected.double(), "x")


def test_quantisation_of_what_is_out_of_range_is_nan():
    x, book = randn(3, 4).requires_grad_(), randn(5, 4, seed=1).requires_grad_()
    with use_backend("triton"):
        values, commitment, distortion = quantize(x, book, torch.tensor([4, -1, 5], device=DEVICE))
        grads = torch.autograd.grad((commitment + distortion).sum(), (x, book))
    for result in (values, commitment, distortion, grads[0]):
        assert result[0].isfinite().all()
        assert result[1:].isnan().all()
    assert grads[1].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1), (40, 6, 7), (30, 9, 200)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moving_averages_are_those_of_the_reference(dtype, shape):
    rows, codes, size = shape
    x, ids = randn(rows, size, dtype=dtype), integers(-1, codes, rows)
    states = []
    for backend in ("triton", "reference"):
        state = [torch.ones(codes, device=DEVICE), randn(codes, size, seed=2), randn(codes, size, seed=3, dtype=dtype)]
        with use_backend(backend):
            for eps in (1e-5, 0.0):
                codebook_ema(x, ids, *state, 0.9, eps)
        states.append(state)
    for name, actual, expected in zip(("counts", "sums", "codebook"), *states, strict=True):
        assert_matches(actual, expected.double(), name)
