import pytest
import torch
from support import DEVICE, assert_matches

from illume_fast.ops import cfg_sample, linear_cross_entropy, nearest_code, paged_attention, use_backend
from illume_fast.ops.paged_attention import paged_prefill_attention

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def both(op, *args, **kwargs):
    """What Triton gives, and what the reference does."""
    with use_backend("triton"):
        actual = op(*args, **kwargs)
    with use_backend("reference"):
        return actual, op(*args, **kwargs)


SETTINGS = [
    {"guidance": 1.0},
    {"guidance": 3.0, "top_k": 5},
    {"guidance": 7.5, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"guidance": 0.0, "top_p": 0.3, "min_p": 0.05},
    {"guidance": 2.0, "temperature": 0.0},
    {"guidance": -1.0, "top_p": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws_are_those_of_the_reference(dtype, size, settings):
    cond, uncond = (2 * randn(4, size, dtype=dtype, seed=s) for s in (0, 1))
    cond[1, 0] = -torch.inf
    cond[2] = cond[2].round()  # ties
    actual, expected = both(cfg_sample, cond, uncond, **settings, seed=torch.arange(4) - 2, step=2**40 + size)
    assert torch.equal(actual, expected)


def test_every_parameter_may_differ_by_row():
    rows = 6
    values = {
        "guidance": torch.tensor([1.0, 0.0, 2.0, 5.0, 1.5, -2.0]),
        "temperature": torch.tensor([1.0, 0.5, 0.0, 2.0, 1e-6, 1.0]),
        "top_k": torch.tensor([0, 1, 3, 50, 1000, 2]),
        "top_p": torch.tensor([1.0, 0.5, 0.9, 0.0, 1.0, 0.7]),
        "min_p": torch.tensor([0.0, 0.1, 0.0, 1.0, 0.0, 0.3]),
        "seed": torch.tensor([0, 1, -1, 2**62, 5, 6]),
        "step": torch.arange(rows),
    }
    actual, expected = both(cfg_sample, randn(rows, 60), randn(rows, 60, seed=1), **values)
    assert torch.equal(actual, expected)


def test_rows_of_several_blocks():
    cond, uncond = (2 * randn(2, 9000, seed=s).round(decimals=2) for s in (0, 1))
    settings = {"guidance": 2.0, "top_k": 3000, "top_p": 0.95, "min_p": 1e-4}
    for step in range(4):
        actual, expected = both(cfg_sample, cond, uncond, **settings, seed=torch.arange(2), step=step)
        assert torch.equal(actual, expected)


def test_bad_rows_get_minus_one():
    cond = randn(6, 33)
    cond[0, 3], cond[1, 4], cond[2] = torch.nan, torch.inf, -torch.inf
    top_p = torch.tensor([1.0, 1.0, 1.0, 1.5, 0.5, -0.1])
    actual, expected = both(cfg_sample, cond, None, guidance=1.0, top_p=top_p, seed=1, step=2)
    assert torch.equal(actual, expected)
    assert actual[:4].eq(-1).all()
    assert actual[4] >= 0
    assert actual[5] == -1


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (70, 130, 33), (5, 300, 16)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_are_those_of_the_reference(dtype, shape, metric):
    vectors, codes, size = shape
    x, book = randn(vectors, size, dtype=dtype), randn(codes, size, dtype=dtype, seed=1)
    book[codes // 2] = book[0]  # equal codes: the lowest id wins
    actual, expected = both(nearest_code, x, book, metric)
    assert torch.equal(actual, expected)


def test_codes_of_hard_inputs():
    x, book = randn(6, 20), randn(90, 20, seed=1)
    book = book[:1] + 1e-6 * book  # every block is in doubt
    x[1, 3], x[2, 0], book[7, 1] = torch.nan, torch.inf, torch.nan
    x[3] *= 100
    x[4] = book[40]
    for metric in ("l2", "cosine", "dot"):
        actual, expected = both(nearest_code, x.T.contiguous().T, book, metric)
        assert torch.equal(actual, expected), metric


def cache(rows, length, heads, size, page_size, dtype):
    pages = -(-length // page_size)
    table = torch.randperm(rows * pages, generator=torch.Generator().manual_seed(3)).view(rows, pages).int().to(DEVICE)
    k, v = (randn(rows * pages, page_size, heads, size, dtype=dtype, seed=s) for s in (4, 5))
    return k, v, table


@pytest.mark.parametrize("heads", [(4, 4, 32), (7, 1, 20), (6, 2, 64)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_that_of_the_reference(dtype, heads):
    query_heads, key_heads, size = heads
    k, v, table = cache(4, 70, key_heads, size, 5, dtype)
    q = randn(4, query_heads, size, dtype=dtype)
    lengths = torch.tensor([70, 1, 0, 33], device=DEVICE)
    actual, expected = both(paged_attention, q, k, v, table, lengths, 0.3)
    assert_matches(actual, expected.double(), "decoding")
    rows, positions = (torch.tensor(x, device=DEVICE) for x in ([0, 3, 1], [69, 5, 0]))
    actual, expected = both(paged_prefill_attention, q[:3], k, v, table, rows, positions, 0.3)
    assert_matches(actual, expected.double(), "prefill")


def test_attention_over_several_stretches():
    k, v, table = cache(2, 1200, 1, 16, 16, torch.float32)
    q, lengths = randn(2, 2, 16), torch.tensor([1200, 513], device=DEVICE)
    actual, expected = both(paged_attention, q, k, v, table, lengths, 0.25)
    assert_matches(actual, expected.double(), "decoding")


def test_attention_of_what_is_out_of_range_is_nan():
    k, v, table = cache(3, 20, 1, 16, 10, torch.float32)
    table[1, 1] = 99
    with use_backend("triton"):
        out = paged_attention(randn(3, 1, 16), k, v, table, torch.tensor([21, 15, 20], device=DEVICE), 0.25)
    assert out[:2].isnan().all()
    assert out[2].isfinite().all()


@pytest.mark.parametrize("shape", [(3, 5, 7), (70, 130, 33)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_and_gradients_are_those_of_the_reference(dtype, shape):
    rows, codes, size = shape
    labels = torch.randint(codes, (rows,), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    labels[::4] = -100
    results = []
    for backend in ("triton", "reference"):
        x, weight = (randn(n, size, dtype=dtype, seed=n).requires_grad_() for n in (rows, codes))
        with use_backend(backend):
            losses = linear_cross_entropy(x, weight, labels, reduction="none")
            results.append((losses, *torch.autograd.grad(losses.sum(), (x, weight))))
    for label, actual, expected in zip(("losses", "x", "weight"), *results, strict=True):
        assert_matches(actual, expected.double(), label)
