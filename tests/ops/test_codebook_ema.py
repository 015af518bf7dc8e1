import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import codebook_ema, use_backend

BACKENDS = backend_names(codebook_ema)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def inputs(rows=50, size=33, codes=7, dtype=torch.float32, book=torch.float32, seed=0):
    """x, ids and a state in which some codes have counts near 0."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=gen).to(DEVICE, dtype)
    ids = torch.randint(-1, max(codes, 1), (rows,), generator=gen).clamp_max(codes - 1).to(DEVICE)
    counts = (5 * torch.rand(codes, generator=gen) * (torch.rand(codes, generator=gen) < 0.7)).to(DEVICE)
    sums, codebook = (torch.randn(codes, size, generator=gen).to(DEVICE) for _ in range(2))
    return x, ids, counts, sums, codebook.to(book)


def expected_state(x, ids, counts, sums, codebook, decay, eps):
    """The update as it is written in the papers, float64."""
    counts, sums = counts.double(), sums.double()
    chosen = (ids[:, None] == torch.arange(len(counts), device=x.device)).double()
    counts = decay * counts + (1 - decay) * chosen.sum(0)
    sums = decay * sums + (1 - decay) * chosen.T @ x.double()
    total = counts.sum()
    smoothed = (counts + eps) / (total + len(counts) * eps) * total
    return counts, sums, sums / smoothed[:, None]


def assert_updates(args, decay=0.99, eps=1e-5):
    expected = expected_state(*args, decay, eps)
    assert codebook_ema(*args, decay, eps) is None
    for label, actual, e in zip(("counts", "sums"), args[2:4], expected[:2], strict=True):
        assert_matches(actual, e, label, tolerance=1e-6)
    for code, e in zip(args[4], expected[2], strict=True):  # lengths differ by orders of magnitude
        assert_matches(code, e, "codebook")


@pytest.mark.parametrize("shape", [(1, 1, 1), (50, 33, 7), (3000, 16, 2), (20, 300, 90)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape):
    rows, size, codes = shape
    args = inputs(rows, size, codes, dtype)
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend):
        for decay, eps in ((0.99, 1e-5), (0.5, 1e-2), (0.0, 1e-3), (1.0, 1e-5)):
            assert_updates([t.clone() for t in args], decay, eps)


@pytest.mark.parametrize("book", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, book):
    args = [t.cpu() for t in inputs(200, 37, 11, dtype)]
    args[2] += 1.0  # so that a code fits float16
    args[4] = args[4].to(book)
    with use_backend("cpu"):
        assert_updates(args)


def test_threads_change_nothing():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            args = inputs(20000, 16, 300)
            codebook_ema(*args)
            results.append(torch.cat([t.flatten() for t in args[2:]]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@given(
    rows=st.integers(0, 30),
    size=st.integers(0, 70),
    codes=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(rows, size, codes, dtype, transposed):
    for backend in backends_here(codebook_ema):
        args = list(inputs(rows, size, codes, dtype))
        args[2] += 0.1  # no vectors and no counts: another test
        if transposed:
            args[0] = args[0].T.contiguous().T
            args[1] = torch.stack((args[1], args[1]), 1)[:, 0]
        with use_backend(backend):
            assert_updates(args)


def test_a_state_in_pieces_is_declined_by_the_cpu_kernel():
    args = [t.cpu() for t in inputs()]
    args[3] = args[3].T.contiguous().T
    with use_backend("cpu"), pytest.raises(RuntimeError, match="needs contiguous counts, sums and codebook"):
        codebook_ema(*args)
    assert_updates(args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_average_of_one_cluster_is_reached(backend):
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]], device=DEVICE)
    ids = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    state = torch.ones(1, device=DEVICE), torch.zeros(1, 2, device=DEVICE), torch.zeros(1, 2, device=DEVICE)
    skip_unless_runs(codebook_ema, backend, x, ids, *state, 0.9, 1e-5)
    with use_backend(backend):
        for _ in range(300):
            codebook_ema(x, ids, *state, 0.9, 1e-5)
    torch.testing.assert_close(state[2], torch.tensor([[2.0, 4.0]], device=DEVICE))
    torch.testing.assert_close(state[0], torch.tensor([2.0], device=DEVICE))


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_without_counts_stay(backend, eps):
    """None at all, whatever eps; without eps, those that nobody chose."""
    x, ids, counts, sums, codebook = inputs(6, 4, 5)
    counts.zero_()
    skip_unless_runs(codebook_ema, backend, x, ids, counts, sums, codebook, 0.9, eps)
    with use_backend(backend):
        before = codebook.clone()
        codebook_ema(x, torch.full_like(ids, -1), counts, sums, codebook, 0.9, eps)
        assert torch.equal(codebook, before)
        assert not counts.any()
        codebook_ema(x, torch.full_like(ids, 3), counts, sums, codebook, 0.9, eps)
    assert codebook.isfinite().all()
    assert not torch.equal(codebook[3], before[3])
    assert torch.equal(codebook[:3], before[:3]) == (eps == 0.0)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_and_tiny_vectors(backend, scale):
    args = list(inputs(200, 17, 5))
    args[0], args[3] = args[0] * scale, args[3] * scale
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend):
        expected = expected_state(*args, 0.99, 1e-5)
        codebook_ema(*args)
    for actual, e in zip(args[3:], expected[1:], strict=True):
        assert_matches(actual / scale, e / scale, "state")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_spoils_its_own_code_alone(backend):
    args = inputs(40, 6, 5)
    args[1][3], args[1][9] = 2, -1
    args[0][3, 1], args[0][9] = torch.nan, torch.inf
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend):
        codebook_ema(*args)
    for tensor in args[3:]:
        wrong = ~tensor.isfinite()
        assert wrong[2, 1]
        assert wrong.sum() == 1


@pytest.mark.parametrize("bad", [5, -2, 2**62])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])
def test_ids_out_of_range_are_refused_and_nothing_is_written(backend, bad):
    args = inputs(10, 2, 5)
    args[1][7] = bad
    before = [t.clone() for t in args]
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend), pytest.raises(RuntimeError, match=rf"ids must lie in \[-1, 5\), got {bad}"):
        codebook_ema(*args)
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_codes(backend):
    args = inputs(3, 2, 0)
    args[1].fill_(-1)
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend):
        codebook_ema(*args)


def test_bad_arguments_name_both_values():
    x, ids, counts, sums, codebook = inputs(10, 2, 5)
    for args, message in (
        ((x, ids[:3], counts, sums, codebook), r"\(10, 2\) and \(3,\)"),
        ((x, ids, counts, sums, codebook[:, :1]), r"codebook is \(5, 1\), it must be \[K, 2\]"),
        ((x, ids, counts, sums[:4], codebook), r"\(5,\) and \(4, 2\), for a codebook of \(5, 2\)"),
        ((x, ids.int(), counts, sums, codebook), "ids is torch.int32, it must be torch.int64"),
        ((x.double(), ids, counts, sums, codebook), "x is torch.float64, it must be torch.float32 or"),
        ((x, ids, counts, sums.half(), codebook), "sums is torch.float16, it must be torch.float32"),
        ((x, ids, counts, sums, codebook, 1.5), "decay is 1.5"),
        ((x, ids, counts, sums, codebook, 0.9, -1.0), "eps -1.0"),
    ):
        with pytest.raises(RuntimeError, match=f"codebook_ema: .*{message}"):
            codebook_ema(*args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = inputs(12, 3, 4)
    skip_unless_runs(codebook_ema, backend, *args, 0.99, 1e-5)
    with use_backend(backend):
        torch.library.opcheck(codebook_ema.overload, args)


def test_mutation_is_seen_by_autograd():
    args = inputs()
    before = [t._version for t in args]
    codebook_ema(*args)
    assert [t._version - b for t, b in zip(args, before, strict=True)] == [0, 0, 1, 1, 1]


def test_compiles_without_graph_breaks():
    def step(*args):
        codebook_ema(*args, decay=0.9)
        return args[4] + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for rows in (9, 5):
        args, same = inputs(rows), inputs(rows)
        assert torch.equal(compiled(*args), step(*same))
        assert all(torch.equal(a, b) for a, b in zip(args, same, strict=True))
