"""Thousands of random calls of every op against float64: shapes, strides, scales, ties, NaN and infinities.

ILLUME_FAST_RANDOM_CALLS says how many (10 000 in `make test-all`, a few in the quick suite). A failure names its seed;
what it finds becomes a named case beside the op's other tests.
"""

import os

import pytest
import torch
from random_inputs import DTYPES, Random
from sampling_oracle import mixed, survivors

from illume_fast.ops import (
    add_rms_norm,
    cfg_sample,
    code_statistics,
    codebook_ema,
    linear,
    linear_cross_entropy,
    nearest_code,
    paged_attention,
    quantize,
    rms_norm,
    rope,
    swiglu,
)

EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
TINY = {torch.float32: 1e-37, torch.bfloat16: 1e-37, torch.float16: 1e-7}
LARGE = {torch.float32: 1e37, torch.bfloat16: 1e37, torch.float16: 6e4}


def assert_within(actual, expected, slack):
    """|actual - expected| <= slack (float64) wherever expected is a number that the dtype holds; NaN stays NaN."""
    actual, expected, slack = (t.double() for t in torch.broadcast_tensors(actual, expected, slack))
    assert (actual.isnan() | ~expected.isnan()).all(), "a NaN was lost"
    judged = expected.isfinite() & slack.isfinite()
    wrong = judged & ~((actual - expected).abs() <= slack)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}: {actual[wrong][:3]}, not {expected[wrong][:3]}"


def roundings(expected, dtype, count=4.0):
    """A few roundings of dtype; infinite where the dtype cannot hold the number."""
    slack = count * EPS[dtype] * expected.abs() + TINY[dtype]
    return torch.where(expected.abs() < LARGE[dtype], slack, torch.inf)


def check_swiglu(r):
    dtype = r.choice(DTYPES)
    shape = [r.size(8) for _ in range(r.number(0, 3))] + [r.size()]
    gate, up = (r.values(*shape, dtype=dtype) for _ in range(2))
    g, u = gate.double(), up.double()
    expected = g * g.sigmoid() * u
    # silu of a very negative number is smaller than float32 holds, and may then meet a huge one
    slack = roundings(expected, dtype, 8.0) + u.abs() * 1e-36
    assert_within(
        swiglu(gate, up), torch.where(g == -torch.inf, 0.0, expected), torch.where(g.isinf(), torch.inf, slack)
    )


def check_rms_norm(r):
    dtype = r.choice(DTYPES)
    rows, width = r.size(20), max(1, r.size())
    x, weight = r.values(rows, width, dtype=dtype, special=False), r.values(width, dtype=dtype, special=False)
    eps = r.choice((1e-6, 1e-5))
    wide = x.double()
    normal = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    expected = normal * weight.double()
    if r.chance(0.5):
        assert_within(
            rms_norm(x, weight, eps), expected, roundings(expected, dtype, 8.0) + TINY[dtype] * weight.double().abs()
        )
        return
    residual = r.values(rows, width, dtype=dtype, special=False)
    actual, total = add_rms_norm(x, residual, weight, eps)
    assert torch.equal(total, x + residual)
    wide = total.double()
    expected = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.double()
    assert_within(actual, expected, roundings(expected, dtype, 8.0) + TINY[dtype] * weight.double().abs())


def check_rope(r):
    dtype = r.choice(DTYPES)
    tokens, size = r.size(12), 2 * max(1, r.size(40))
    q, k = (r.values(tokens, r.number(1, 5), size, dtype=dtype, special=False) for _ in range(2))
    angles = torch.rand(tokens, size // 2, generator=r.gen) * 100
    for x, y in zip((q, k), rope(q, k, angles.cos(), angles.sin()), strict=True):
        a, b = x.double().chunk(2, -1)
        cos, sin = (t.double()[:, None] for t in (angles.cos(), angles.sin()))
        expected = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        scale = torch.cat((a.abs() + b.abs(),) * 2, -1)
        slack = 4 * EPS[dtype] * scale + TINY[dtype]
        assert_within(y, expected, torch.where(scale < LARGE[dtype], slack, torch.inf))


def check_linear(r):
    dtype = r.choice(DTYPES)
    rows, outputs, size = r.size(70), r.size(70), r.size()
    x, weight = r.values(rows, size, dtype=dtype), r.values(outputs, size, dtype=dtype)
    bias = r.values(outputs, dtype=dtype) if r.chance(0.5) else None
    expected = x.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    scale = x.double().abs() @ weight.double().abs().T + (0.0 if bias is None else bias.double().abs())
    slack = (size + 4) * 2**-24 * scale + 2 * EPS[dtype] * expected.abs() + (size + 1) * 1e-37 + TINY[dtype]
    # subnormal bfloat16 numbers may count as zero
    slack = slack + 2e-38 * (x.double().abs().sum(1)[:, None] + weight.double().abs().sum(1))
    assert_within(linear(x, weight, bias), expected, torch.where(scale < LARGE[dtype], slack, torch.inf))


def check_linear_cross_entropy(r):
    dtype = r.choice(DTYPES)
    rows, codes, size = r.size(40), max(1, r.size()), r.size(70)
    x = torch.randn(rows, size, generator=r.gen).to(dtype)
    weight = r.laid_out((torch.randn(codes, size, generator=r.gen) * r.choice((0.0, 0.1, 3.0))).to(dtype))
    labels = r.integers(0, codes, rows)
    labels[torch.rand(rows, generator=r.gen) < r.choice((0.0, 0.5))] = -100
    leaves, exact = ([t.detach().to(d).requires_grad_() for t in (x, weight)] for d in (dtype, torch.float64))
    actual = linear_cross_entropy(*leaves, labels, reduction="none")
    expected = torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, labels, reduction="none")
    scale = (exact[0].abs() @ exact[1].abs().T).amax(1) if rows else expected
    assert_within(actual, expected, (size + 8) * 2**-22 * (scale + 1.0 + expected.abs()))
    grads = (torch.autograd.grad(y.sum(), t) for y, t in ((actual, leaves), (expected, exact)))
    for a, e in zip(*grads, strict=True):
        assert_within(a, e, (8 * EPS[dtype] + 1e-5) * (e.abs().amax() + 1.0) if e.numel() else e)


def check_nearest_code(r):
    dtype, size, metric = r.choice(DTYPES), r.size(70), r.choice(("l2", "cosine", "dot"))
    vectors, codes = r.size(40), max(1, r.size())
    x = r.values(vectors, size, dtype=dtype)
    book = r.values(codes, size, dtype=r.choice(DTYPES))
    if r.chance(0.2) and size:  # hardly to be told apart
        book = (book[:1].float() + 1e-6 * torch.randn(codes, size, generator=r.gen)).to(book.dtype)
    if r.chance(0.2):
        book = book[r.integers(0, codes, codes)]  # equal codes
    ids = nearest_code(x, book, metric)
    a, b = x.double(), book.double()
    usable, good = b.isfinite().all(1), a.isfinite().all(1)
    assert torch.equal(ids < 0, ~good | ~usable.any())
    for row in (ids >= 0).nonzero()[:, 0].tolist():
        code = int(ids[row])
        assert usable[code]
        if metric == "l2":
            far = (a[row] - b).square().sum(1)
        else:
            far = -(b @ a[row])
            if metric == "cosine":
                far = torch.where(b.norm(dim=1) > 0, far / b.norm(dim=1).clamp_min(1e-300), 0.0)
        far = torch.where(usable, far, torch.inf)
        slack = 1e-12 * (far[usable].abs().amax() + far.min().abs())
        assert far[code] <= far.min() + slack, f"code {code} at {far[code]}, the nearest is at {far.min()}"
        same = (book.float() == book.float()[code]).all(1).nonzero()[0, 0] if size else 0
        assert code == int(same), "an equal code has a lower id"


def check_code_statistics(r):
    rows, size, codes = r.size(), r.size(70), max(1, r.size(40))
    x = r.values(rows, size, dtype=r.choice(DTYPES), special=False)
    ids = r.integers(-1, codes, rows)
    counts, sums = code_statistics(x, ids, codes)
    chosen = (ids[:, None] == torch.arange(codes)).double()
    assert torch.equal(counts.double(), chosen.sum(0))
    scale = chosen.T @ x.double().abs()
    assert_within(sums, chosen.T @ x.double(), torch.where(scale < 1e37, 2**-23 * scale + 1e-37, torch.inf))


def check_codebook_ema(r):
    rows, size, codes = r.size(), r.size(70), max(1, r.size(40))
    x = r.values(rows, size, dtype=r.choice(DTYPES), special=False)
    ids = r.integers(-1, codes, rows)
    counts, sums = torch.rand(codes, generator=r.gen) + 0.01, r.values(codes, size, special=False)
    book, decay, eps = r.values(codes, size, dtype=r.choice(DTYPES), special=False), r.choice((0.99, 0.5)), 1e-5
    chosen = (ids[:, None] == torch.arange(codes)).double()
    moved = decay * sums.double() + (1 - decay) * chosen.T @ x.double()
    scale = decay * sums.double().abs() + (1 - decay) * chosen.T @ x.double().abs()
    weights = decay * counts.double() + (1 - decay) * chosen.sum(0)
    total = weights.sum()
    by = ((weights + eps) * total / (total + codes * eps))[:, None]
    codebook_ema(x, ids, counts, sums, book, decay, eps)
    assert_within(counts, weights, 2**-23 * weights)
    assert_within(sums, moved, torch.where(scale < 1e37, 2**-23 * scale + 1e-37, torch.inf))
    slack = (2**-21 + 2 * EPS[book.dtype]) * (scale / by) + TINY[book.dtype] + 1e-37 / by
    assert_within(book, moved / by, torch.where((scale < 1e37) & (scale / by < LARGE[book.dtype]), slack, torch.inf))


def check_quantize(r):
    dtype, rows, size, codes = r.choice(DTYPES), r.size(40), r.size(100), max(1, r.size(40))
    x = r.values(rows, size, dtype=dtype, special=False).requires_grad_()
    book = r.values(codes, size, dtype=r.choice(DTYPES), special=False).requires_grad_()
    ids, rule = r.integers(0, codes, rows), r.choice(("straight_through", "rotation"))
    values, commitment, distortion = quantize(x, book, ids, rule)
    a, b = x.detach().double(), book.detach().double()[ids]
    assert_within(values, b, roundings(b, dtype))
    error = (a - b).square().sum(1) / max(1, size)
    assert_within(commitment, error, torch.where(error < 1e36, (size + 4) * 2**-23 * error + 1e-36, torch.inf))
    assert torch.equal(commitment, distortion)
    grad = torch.randn(rows, size, generator=r.gen).to(dtype)
    (passed,) = torch.autograd.grad(values, x, grad, retain_graph=True)
    if rule == "straight_through":
        assert torch.equal(passed, grad)
    else:  # the code's length over that of x is all that a rotation changes
        lengths, of_codes = a.norm(dim=1), b.norm(dim=1)
        sure = (lengths > 0) & (of_codes > 0) & (((a * b).sum(1) / (lengths * of_codes)) > -1 + 1e-6)
        expected = torch.where(sure, grad.double().norm(dim=1) * of_codes / lengths, 0.0)
        few = torch.where(sure & (expected < LARGE[dtype]), 4 * EPS[dtype] * expected + 1e-6 * expected, torch.inf)
        assert_within(passed.double().norm(dim=1), expected, few + size * TINY[dtype])
    (slope,) = torch.autograd.grad(distortion.sum(), book)
    rows_of = (ids[:, None] == torch.arange(codes)).double().T
    scale = rows_of @ (a.abs() + b.abs()) * 2 / max(1, size)
    slack = (2**-22 + 2 * EPS[book.dtype]) * scale + TINY[book.dtype]
    expected = rows_of @ (b - a) * 2 / max(1, size)
    assert_within(slope, expected, torch.where(scale < LARGE[book.dtype], slack, torch.inf))


def check_paged_attention(r):
    dtype, cached = r.choice(DTYPES), r.choice(DTYPES)
    rows, key_heads, size, page_size = r.size(6), r.number(1, 4), max(1, r.size(130)), r.choice((1, 3, 16))
    group, longest = r.number(1, 9), r.size() + 1
    max_pages = -(-longest // page_size)
    pages = max(1, rows * max_pages)
    k, v = (torch.randn(pages, page_size, key_heads, size, generator=r.gen).to(cached) for _ in range(2))
    table = torch.randperm(pages, generator=r.gen)[: rows * max_pages].view(rows, max_pages).int()
    lengths = r.integers(0, longest + 1, rows)
    q = r.laid_out(torch.randn(rows, key_heads * group, size, generator=r.gen).to(dtype))
    scale = size**-0.5 * r.choice((1.0, 0.1, 8.0))
    actual = paged_attention(q, k, v, table, lengths, scale)
    rounded = dtype == cached == torch.bfloat16
    for row, length in enumerate(lengths.tolist()):
        keys, values = (
            p[table[row].long()].flatten(0, 1)[:length].double().repeat_interleave(group, 1) for p in (k, v)
        )
        scores = torch.einsum("hd,lhd->hl", q[row].double(), keys) * scale
        expected = torch.einsum("hl,lhd->hd", scores.softmax(1), values) if length else q[row].double() * 0
        most = values.abs().amax() if length else torch.zeros(())
        assert_within(actual[row], expected, (2 * EPS[dtype] + (2**-8 if rounded else 2e-5)) * most + TINY[dtype])


def check_cfg_sample(r):
    dtype, rows, size = r.choice(DTYPES), r.size(6), r.size()
    cond, uncond = (r.values(rows, size, dtype=dtype) for _ in range(2))
    settings = {
        "guidance": r.choice((1.0, 0.0, 3.0, 7.5, -1.0)),
        "temperature": r.choice((1.0, 0.0, 0.7, 5.0)),
        "top_k": r.choice((0, 1, 2, 10, 100, 1000)),
        "top_p": r.choice((1.0, 0.9, 0.5, 0.0)),
        "min_p": r.choice((0.0, 0.05, 1.0)),
    }
    ids = cfg_sample(cond, uncond, **settings, seed=r.integers(-(2**40), 2**40, rows), step=r.number(0, 99))
    assert ids.shape == (rows,)
    for row, drawn in enumerate(ids.tolist()):
        c, u = cond[row].float(), uncond[row].float()
        c, u = (u, u) if settings["guidance"] == 0 else (c, c) if settings["guidance"] == 1 else (c, u)
        z = torch.as_tensor(mixed(c, u, settings["guidance"]))
        z = torch.where((c == -torch.inf) | (u == -torch.inf), -torch.inf, z)
        broken = bool((~(c < torch.inf) | ~(u < torch.inf)).any()) or bool(
            (z.abs() > 3e38).logical_and(z.isfinite()).any()
        )
        if broken or not size or not bool((z > -torch.inf).any()):
            if not bool((z.abs() > 3e38).logical_and(z.isfinite()).any()):
                assert drawn == -1
            continue
        assert 0 <= drawn < size
        # kept by the rule, or a hair's breadth from being kept
        loose = {
            **settings,
            "top_p": min(1.0, settings["top_p"] + 1e-5),
            "min_p": max(0.0, settings["min_p"] * 0.9999 - 1e-9),
        }
        order = {name: loose[name] for name in ("temperature", "top_k", "top_p", "min_p")}
        near = z + 0.0
        alive, _ = survivors(near.numpy(), **order)
        best = float(near.max())
        tolerance = 1e-5 * max(1.0, abs(best))
        close = near[drawn] >= near[torch.as_tensor(alive)].min() - tolerance
        assert alive[drawn] or close, f"id {drawn} is not kept"


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
CALLS = int(os.environ.get("ILLUME_FAST_RANDOM_CALLS") or 0)


def run(op, calls):
    for seed in range(calls):
        try:
            CHECKS[op](Random(seed))
        except Exception as error:
            raise AssertionError(f"{op}, seed {seed}: {error}") from error


@pytest.mark.parametrize("op", CHECKS)
def test_some_random_calls(op):
    run(op, CALLS or 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("op", CHECKS)
def test_ten_thousand_random_calls(op):
    run(op, CALLS or 10_000)
