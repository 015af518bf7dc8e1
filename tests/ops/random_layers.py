"""Random calls of what a decoder layer is made of, with their gradients."""

import torch
from random_inputs import DTYPES, Random
from random_tolerance import EPS, LARGE, TINY, assert_same, assert_within, exact, roundings
from support import DEVICE
from torch import Tensor

from illume_fast.ops import add_rms_norm, gelu, linear, qkv_linear, rms_norm, rope, swiglu, swiglu_linear


def check_swiglu(r: Random) -> None:
    dtype = r.choice(DTYPES)
    shape = [r.size(8) for _ in range(r.number(0, 3))] + [r.size(huge=60_000)]
    gate, up, grad = (r.values(*shape, dtype=dtype) for _ in range(3))
    g, u, y = exact(gate), exact(up), exact(grad)
    share = g.sigmoid()
    # silu of a very negative number is smaller than float32 holds, and may then meet a huge one
    hidden = u.abs() * 1e-36
    expected = torch.where(g == -torch.inf, 0.0, g * share * u)
    slack = torch.where(g.isinf(), torch.inf, roundings(expected, dtype, 8.0) + hidden)
    gate, up = gate.requires_grad_(), up.requires_grad_()
    actual = swiglu(gate, up)
    assert_within(actual, expected, slack)
    of_gate, of_up = torch.autograd.grad(actual, (gate, up), grad)
    wanted = g * share * y
    assert_within(of_up, wanted, torch.where(g.isinf(), torch.inf, roundings(wanted, dtype, 8.0) + y.abs() * 1e-36))
    wanted = y * u * share * (1 + g * (1 - share))
    terms = (y * u).abs() * share * (1 + g.abs() * (1 - share))
    # what grad is multiplied with last may be subnormal
    slack = (
        16 * EPS[dtype] * terms
        + 32 * 2**-24 * (y * u * share).abs()
        + TINY[dtype]
        + y.abs() * 1e-37
        + (y.abs() + 1) * hidden
    )
    usual = g.isfinite() & ((y * u).abs() < LARGE[torch.float32]) & (terms < LARGE[dtype])
    assert_within(of_gate, wanted, torch.where(usual, slack, torch.inf))


def check_gelu(r: Random) -> None:
    dtype, approximate = r.choice(DTYPES), r.choice(("none", "tanh"))
    shape = [r.size(8) for _ in range(r.number(0, 3))] + [r.size(huge=60_000)]
    x, grad = (r.values(*shape, dtype=dtype) for _ in range(2))
    wide = exact(x).clamp(-40.0, 40.0).requires_grad_()
    if approximate == "none":
        share = 0.5 * torch.special.erfc(-wide / 2**0.5)
    else:
        share = torch.sigmoid(1.5957691216057308 * (wide + 0.044715 * wide**3))
    (slope,) = torch.autograd.grad((wide * share).sum(), wide)
    share = share.detach()
    expected = torch.where(exact(x) == -torch.inf, torch.nan, exact(x) * share)
    x = x.requires_grad_()
    actual = gelu(x, approximate)
    # the share of what is very negative may be subnormal
    assert_within(actual, expected, roundings(expected, dtype, 16.0) + exact(x).abs() * 1e-37)
    (of_x,) = torch.autograd.grad(actual, x, grad)
    y = exact(grad)
    # where the slope passes through 0 it is a difference
    slack = roundings(y * slope, dtype, 16.0) + y.abs() * (1e-37 + 1e-6 * (wide.detach() > -2))
    assert_within(of_x, y * slope, torch.where(y.isfinite(), slack, torch.inf))


def check_rms_norm(r: Random) -> None:
    dtype = r.choice(DTYPES)
    rows, width = (r.size(5), r.number(1, 30_000)) if r.chance(0.01) else (r.size(20, huge=3000), max(1, r.size()))
    x, weight = (r.values(*shape, dtype=dtype, special=False) for shape in ((rows, width), (width,)))
    eps = r.choice((1e-6, 1e-5))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    if r.chance(0.5):
        actual = rms_norm(x, weight, eps)
        total = exact(x)
    else:
        residual = r.values(rows, width, dtype=dtype, special=False)
        actual, rounded = add_rms_norm(x, residual, weight, eps)
        assert torch.equal(rounded, x + residual)
        total = exact(rounded)
    w = exact(weight)
    inverse = (total.square().mean(-1, keepdim=True) + eps).rsqrt()
    normal = total * inverse
    expected = normal * w
    summed = width * 2**-29  # of a float32 sum in 16 parts, and then its root
    # what is rounded after the norm may be subnormal, and is then multiplied
    slack = roundings(expected, dtype, 8.0) + summed * expected.abs() + TINY[dtype] * w.abs()
    assert_within(actual, expected, slack)
    grad = r.values(rows, width, dtype=dtype, special=False)
    of_x, of_weight = torch.autograd.grad(actual, (x, weight), grad)
    y = exact(grad)
    terms = y * w
    back = inverse * (terms - normal * (terms * normal).mean(-1, keepdim=True))
    along = inverse * (terms * normal).abs().mean(-1, keepdim=True)
    scale = inverse * terms.abs() + normal.abs() * along
    held = (scale < LARGE[dtype]) & (terms.abs().amax(-1, keepdim=True) < LARGE[torch.float32])
    faint = TINY[dtype] * (1 + inverse + along + inverse * normal.abs() * terms.abs().mean(-1, keepdim=True))
    slack = (16 * EPS[dtype] + 4 * summed) * scale + faint  # the norm may be subnormal
    assert_within(of_x, back, torch.where(held, slack, torch.inf))
    scale = (y * normal).abs().sum(0)
    slack = (8 * EPS[dtype] + summed + rows * 2**-24) * scale + TINY[dtype] * (1 + y.abs().sum(0))
    assert_within(of_weight, (y * normal).sum(0), torch.where(scale < LARGE[dtype], slack, torch.inf))


def check_rope(r: Random) -> None:
    dtype = r.choice(DTYPES)
    tokens, size = r.size(12, huge=4000), 2 * max(1, r.size(40))
    q, k = (r.values(tokens, r.number(1, 5), size, dtype=dtype, special=False) for _ in range(2))
    angles = torch.rand(tokens, size // 2, generator=r.gen) * 100
    cos, sin = angles.cos(), angles.sin()
    q, k = q.requires_grad_(), k.requires_grad_()
    turned = rope(q, k, cos.to(DEVICE), sin.to(DEVICE))
    grads = [r.values(*x.shape, dtype=dtype, special=False) for x in turned]
    back = torch.autograd.grad(turned, (q, k), grads)
    for inputs, outputs, sign in (((q, k), turned, 1.0), (grads, back, -1.0)):
        for x, y in zip(inputs, outputs, strict=True):
            a, b = exact(x).chunk(2, -1)
            c, s = cos.double()[:, None], sign * sin.double()[:, None]
            expected = torch.cat((a * c - b * s, b * c + a * s), -1)
            scale = torch.cat((a.abs() + b.abs(),) * 2, -1)
            slack = 4 * EPS[dtype] * scale + TINY[dtype]
            assert_within(y, expected, torch.where(scale < LARGE[dtype], slack, torch.inf))


def assert_linear(actual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """The product is that of float64, up to float32 sums and a rounding to the dtype."""
    dtype, size = x.dtype, x.shape[1]
    a, w = exact(x), exact(weight)
    b = torch.zeros(len(weight), dtype=torch.float64) if bias is None else exact(bias)
    expected = a @ w.T + b
    scale = a.abs() @ w.abs().T + b.abs()
    slack = (size + 4) * 2**-24 * scale + 2 * EPS[dtype] * expected.abs() + (size + 1) * 1e-37 + TINY[dtype]
    if DEVICE == "cuda":  # torch's, which may round partial sums
        slack = slack + 2 * EPS[dtype] * scale
    # subnormal bfloat16 numbers may count as zero
    slack = slack + 2e-38 * (a.abs().sum(1)[:, None] + w.abs().sum(1))
    assert_within(actual, expected, torch.where(scale < LARGE[dtype], slack, torch.inf))


def check_linear(r: Random) -> None:
    dtype = r.choice(DTYPES)
    rows, outputs, size = r.size(200), r.size(70, huge=4000), r.size(huge=8000)
    x, weight = r.values(rows, size, dtype=dtype), r.values(outputs, size, dtype=dtype)
    bias = r.values(outputs, dtype=dtype) if r.chance(0.5) else None
    assert_linear(linear(x, weight, bias), x, weight, bias)


def check_qkv_linear(r: Random) -> None:
    dtype = r.choice(DTYPES)
    rows, size = r.size(100), r.size(huge=3000)
    x = r.values(rows, size, dtype=dtype)
    weights = [r.values(r.size(70), size, dtype=dtype) for _ in range(3)]
    biases = [r.values(len(weight), dtype=dtype) if r.chance(0.5) else None for weight in weights]
    for actual, weight, bias in zip(qkv_linear(x, *weights, *biases), weights, biases, strict=True):
        assert_linear(actual, x, weight, bias)
        assert_same(actual, linear(x, weight, bias))


def check_swiglu_linear(r: Random) -> None:
    dtype = r.choice(DTYPES)
    rows, outputs, size = r.size(100), r.size(100), r.size(huge=3000)
    x = r.values(rows, size, dtype=dtype)
    weights = [r.values(outputs, size, dtype=dtype) for _ in range(2)]
    products = [linear(x, weight) for weight in weights]
    for product, weight in zip(products, weights, strict=True):
        assert_linear(product, x, weight, None)
    assert_same(swiglu_linear(x, *weights), swiglu(*products))
