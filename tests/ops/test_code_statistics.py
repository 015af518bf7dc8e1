import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import code_statistics, use_backend

BACKENDS = backend_names(code_statistics)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def inputs(rows, size, codes, dtype=torch.float32, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=gen).to(dtype)
    return x.to(DEVICE), torch.randint(-1, codes, (rows,), generator=gen).to(DEVICE)


def on(backend, x, ids, codes):
    skip_unless_runs(code_statistics, backend, x, ids, codes)
    with use_backend(backend):
        return code_statistics(x, ids, codes)


def one_hot_sums(x, ids, codes):
    chosen = (ids[:, None] == torch.arange(codes, device=x.device)).double()
    return chosen.sum(0), chosen.T @ x.double()


@pytest.mark.parametrize("rows, size, codes", [(1, 1, 1), (100, 7, 10), (5000, 33, 3), (40, 700, 9), (50, 8, 4000)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, rows, size, codes):
    x, ids = inputs(rows, size, codes, dtype)
    counts, sums = on(backend, x, ids, codes)
    expected_counts, expected_sums = one_hot_sums(x, ids, codes)
    assert counts.dtype == sums.dtype == torch.float32
    assert torch.equal(counts.double(), expected_counts)
    assert_matches(sums, expected_sums, "sums", tolerance=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    x, ids = inputs(333, 37, 11, dtype)
    with use_backend("cpu"):
        _, sums = code_statistics(x.cpu(), ids.cpu(), 11)
    assert_matches(sums, one_hot_sums(x, ids, 11)[1], isa, tolerance=1e-7)


def test_threads_change_nothing():
    x, ids = inputs(20000, 16, 100)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(code_statistics(x, ids, 100)[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sums_stay_exact(backend):
    x = torch.ones(100000, 1, device=DEVICE)
    x[0] = 1e8
    _, sums = on(backend, x, torch.zeros(100000, dtype=torch.int64, device=DEVICE), 1)
    assert sums.item() == torch.tensor(1e8 + 99999).item()


@given(rows=st.integers(0, 30), size=st.integers(0, 20), codes=st.integers(1, 12), transposed=st.booleans())
def test_any_shape_and_stride(rows, size, codes, transposed):
    x, ids = inputs(rows, size, codes)
    if transposed:
        x = x.T.contiguous().T
    for backend in backends_here(code_statistics):
        counts, sums = on(backend, x, ids, codes)
        expected_counts, expected_sums = one_hot_sums(x, ids, codes)
        assert torch.equal(counts.double(), expected_counts)
        assert_matches(sums, expected_sums, backend, tolerance=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_codes(backend):
    x = torch.randn(3, 2, device=DEVICE)
    counts, sums = on(backend, x, torch.full((3,), -1, device=DEVICE), 0)
    assert counts.shape == (0,)
    assert sums.shape == (0, 2)


@pytest.mark.parametrize("bad", [5, -2, 2**62])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_out_of_range_are_refused(backend, bad):
    x, ids = inputs(10, 2, 5)
    ids[7] = bad
    with pytest.raises(RuntimeError, match=rf"ids must lie in \[-1, 5\), got {bad}"):
        on(backend, x, ids, 5)


def test_bad_arguments_name_both_values():
    x, ids = inputs(10, 2, 5)
    for args, message in (
        ((x, ids[:3], 5), r"\(10, 2\) and \(3,\)"),
        ((x, ids.int(), 5), "ids is torch.int32"),
        ((x.double(), ids, 5), "x is torch.float64"),
        ((x, ids, -1), "K is -1"),
    ):
        with pytest.raises(RuntimeError, match=message):
            code_statistics(*args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_reaches_the_rows_that_count(backend):
    x, ids = inputs(12, 3, 4)
    x.requires_grad_()
    _, sums = on(backend, x, ids, 4)
    weights = torch.arange(12.0, device=DEVICE).reshape(4, 3)
    (grad,) = torch.autograd.grad((sums * weights).sum(), x)
    assert torch.equal(grad, torch.where(ids[:, None] >= 0, weights[ids], 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x, ids = inputs(12, 3, 4)
    skip_unless_runs(code_statistics, backend, x, ids, 4)
    with use_backend(backend):
        torch.library.opcheck(code_statistics.overload, (x.requires_grad_(), ids, 4))


def test_compiles_without_graph_breaks():
    x, ids = inputs(12, 3, 4)
    compiled = torch.compile(lambda x, ids: code_statistics(x, ids, 4)[1] * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, ids), code_statistics(x, ids, 4)[1] * 2)
