import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.bench.inputs import codebook
from illume_fast.kernels.cpu import nearest_code as cpu_kernel
from illume_fast.kernels.cuda import nearest_code as cuda_kernel
from illume_fast.ops import PackedCodebook, nearest_code, use_backend
from illume_fast.ops.nearest_code import METRICS, nearest_code_op

BACKENDS = backend_names(nearest_code_op)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [
    pytest.param(1, 1, 1, id="one"),
    pytest.param(3, 5, 2, id="tiny"),
    pytest.param(50, 300, 8, id="ragged-block"),
    pytest.param(17, 129, 31, id="odd"),
    pytest.param(200, 1000, 64, id="blocks"),
    pytest.param(5, 260, 300, id="wide"),
]
NAN, INF = float("nan"), float("inf")


def on(backend, x, codes, metric="l2"):
    skip_unless_runs(nearest_code_op, backend, x, codes, metric)
    with use_backend(backend):
        return nearest_code(x, codes, metric)


def badness(x, codes, metric):
    """[N, K] float64, least at the nearest code, and the size of a float32 rounding in it, [N, 1]."""
    x, codes = x.detach().double().cpu(), codes.detach().double().cpu()
    if metric == "l2":
        distances = (x[:, None] - codes).square().sum(-1)
        return distances, 1e-6 * distances.amin(1, keepdim=True)
    if metric == "cosine":
        codes = codes / codes.norm(dim=1, keepdim=True).clamp_min(1e-300)
        x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return -x @ codes.T, 1e-7 * x.norm(dim=1, keepdim=True) * codes.norm(dim=1).max()


def assert_nearest(ids, x, codes, metric, label=""):
    """No code is nearer than the answer by more than rounding; and none of lower id is as near to the last bit."""
    values, rounding = badness(x, codes, metric)
    ids = ids.cpu().reshape(-1)
    assert int(ids.min()) >= 0, f"{label}: {ids.min()}"
    excess = values.gather(1, ids[:, None]) - values.amin(1, keepdim=True)
    assert (excess <= rounding * 1e-6).all(), f"{label}: {int((excess > rounding * 1e-6).sum())} rows are wrong"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("vectors, codes, size", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, vectors, codes, size, metric):
    x, book = (t.to(DEVICE) for t in codebook(vectors, codes, size, dtype))
    assert_nearest(on(backend, x, book, metric), x, book, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_every_instruction_set(isa, metric):
    for vectors, codes, size in ((1, 3, 1), (29, 385, 33), (130, 200, 7), (3, 5000, 12)):
        for dtype in DTYPES:
            x, book = codebook(vectors, codes, size, dtype)
            with use_backend("cpu"):
                assert_nearest(nearest_code(x, book, metric), x, book, metric, isa)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "offset, scale", [(1e4, 1.0), (-3e6, 100.0), (0, 1e18), (0, 1e30), (0, 1e-18), (0, 1e-30), (1e30, 1e25)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_where_float32_scores_are_useless(backend, offset, scale, metric):
    x, book = (t.to(DEVICE) * scale + offset for t in codebook(40, 500, 16))
    assert_nearest(on(backend, x, book, metric), x, book, metric)


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_closer_than_float32_can_score(backend):
    """Every code nearly as good as every other: each row is doubtful and must be settled in double."""
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(20, 24, generator=gen)
    book = torch.randn(1, 24, generator=gen) + torch.randn(700, 24, generator=gen) * 1e-6
    x, book = x.to(DEVICE), book.to(DEVICE)
    for metric in METRICS:
        assert_nearest(on(backend, x, book, metric), x, book, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest_id(backend, metric):
    x, book = codebook(60, 400, 9)
    copies = torch.cat([book, book.flip(0), book]).to(DEVICE)
    ids = on(backend, x.to(DEVICE), copies, metric)
    assert int(ids.max()) < 400
    assert torch.equal(ids, on(backend, x.to(DEVICE), book.to(DEVICE), metric))
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3)  # halfway points tie exactly
    ids = on(backend, (grid + 0.5).to(DEVICE), grid.to(DEVICE), metric)
    if metric == "l2":
        assert torch.equal(ids.cpu(), (((grid + 0.5)[:, None] - grid).square().sum(-1)).argmin(1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_and_codes_that_are_not_finite(backend, metric):
    x, book = (t.to(DEVICE) for t in codebook(6, 300, 5))
    expected = on(backend, x, book[2:], metric) + 2
    x[1, 4], x[3, 0], x[4, 2] = NAN, INF, -INF
    book[0, 0], book[1, 3] = NAN, INF
    ids = on(backend, x, book, metric)
    assert (ids == -1).tolist() == [False, True, False, True, True, False]
    assert torch.equal(ids[[0, 2, 5]], expected[[0, 2, 5]])
    assert on(backend, x, torch.full_like(book, NAN), metric).tolist() == [-1] * 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_vectors_and_codes(backend):
    book = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], device=DEVICE)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.1]], device=DEVICE)
    assert on(backend, x, book, "cosine").tolist() == [0, 0, 2]
    assert on(backend, x, book, "dot").tolist() == [0, 0, 2]
    assert on(backend, x, book, "l2").tolist() == [1, 1, 2]


@given(
    leading=st.lists(st.integers(0, 4), max_size=3),
    size=st.integers(0, 20),
    codes=st.integers(1, 150),
    layout=st.sampled_from(["packed", "channel-first", "sliced", "broadcast"]),
)
def test_any_shape_and_stride(leading, size, codes, layout):
    gen = torch.Generator().manual_seed(len(leading))
    book = torch.randn(codes, size, generator=gen).to(DEVICE)
    x = torch.randn(*leading, size, generator=gen).to(DEVICE)
    if layout == "channel-first" and leading:
        x = x.movedim(-1, 1 if len(leading) > 1 else 0).contiguous().movedim(1 if len(leading) > 1 else 0, -1)
    elif layout == "sliced":
        x = torch.randn(*leading, 2 * size, generator=gen).to(DEVICE)[..., ::2]
        book = torch.randn(2 * codes, size, generator=gen).to(DEVICE)[::2]
    elif layout == "broadcast":
        x = torch.randn(size, generator=gen).to(DEVICE).expand(*leading, size)
    for backend in backends_here(nearest_code_op):
        ids = on(backend, x, book)
        assert ids.shape == x.shape[:-1]
        assert ids.dtype == torch.int64
        if ids.numel():
            assert_nearest(ids, x.reshape(ids.numel(), size), book, "l2", backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    assert on(backend, torch.empty(0, 4, device=DEVICE), torch.empty(0, 4, device=DEVICE)).shape == (0,)
    assert on(backend, torch.empty(2, 3, 0, device=DEVICE), torch.empty(5, 0, device=DEVICE)).tolist() == [[0] * 3] * 2
    with pytest.raises(RuntimeError, match="no codes"):
        on(backend, torch.empty(1, 4, device=DEVICE), torch.empty(0, 4, device=DEVICE))


def test_more_vectors_than_are_scored_at_a_time():
    x, book = codebook(5000, 64, 3)
    x, book = x.to(DEVICE), book.to(DEVICE)
    assert_nearest(nearest_code(x, book), x, book, "l2")


def test_packed_form_follows_the_tensor():
    x, book = codebook(30, 200, 6)
    first = nearest_code(x, book)
    assert torch.equal(nearest_code(x, book), first)
    with torch.no_grad():
        book.copy_(book.flip(0))
    assert torch.equal(nearest_code(x, book), 199 - first)
    kept = len(cpu_kernel.pack)
    del book
    gc.collect()
    assert len(cpu_kernel.pack) in (kept - 1, 0)
    with torch.inference_mode():
        assert torch.equal(nearest_code(x, codebook(30, 200, 6)[1]), first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_codebook_is_a_copy(backend):
    x, book = (t.to(DEVICE) for t in codebook(30, 200, 6))
    packed = PackedCodebook(book, "cosine")
    expected = on(backend, x, book, "cosine")
    book.zero_()
    assert torch.equal(on(backend, x, packed.codes, "cosine"), expected)
    with use_backend(backend):
        assert torch.equal(nearest_code(x, packed), expected)
    with pytest.raises(ValueError, match="packed for 'cosine'"):
        nearest_code(x, packed, "dot")


def test_gradients_pass_by():
    x, book = (t.requires_grad_() for t in codebook(4, 20, 3))
    assert not nearest_code(x, book).requires_grad


def test_recorded_ties(golden):
    """The official quantiser's ids, with duplicated codes inside and across its blocks."""
    load = pytest.importorskip("safetensors.torch").load_file
    folder = golden("simvq_ties")
    inputs, outputs, weights = (load(folder / f"{name}.safetensors") for name in ("inputs", "outputs", "weights"))
    for case in ("big", "small"):
        (frozen,) = (v.float() for k, v in weights.items() if k.startswith(case) and "codebook" in k)
        (transform,) = (v.float() for k, v in weights.items() if k.startswith(case) and "transform" in k)
        codes = (frozen @ transform.T).to(DEVICE)
        ids = nearest_code(inputs[f"{case}.x"].to(DEVICE).movedim(1, -1), codes)
        assert torch.equal(ids.cpu(), outputs[f"{case}.indices"])


def test_bad_arguments_name_both_values():
    x, book = codebook(4, 20, 3)
    for args, error, message in (
        ((x, book[:, :2]), RuntimeError, r"\(4, 3\) and \(20, 2\)"),
        ((x, book[0]), RuntimeError, r"codebook has shape \(3,\)"),
        ((x.double(), book), RuntimeError, "x is torch.float64"),
        ((x, book.long()), RuntimeError, "codebook is torch.int64"),
        ((x, book, "manhattan"), ValueError, "unknown metric 'manhattan'; choose one of l2, cosine, dot"),
    ):
        with pytest.raises(error, match=message):
            nearest_code(*args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x, book = (t.to(DEVICE) for t in codebook(6, 40, 5))
    skip_unless_runs(nearest_code_op, backend, x, book, "l2")
    with use_backend(backend):
        torch.library.opcheck(nearest_code_op.overload, (x.reshape(2, 3, 5), book, "cosine"))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    compiled = torch.compile(lambda x, c: nearest_code(x, c) + 1, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        x, book = codebook(rows, 40, 5)
        assert torch.equal(compiled(x, book), nearest_code(x, book) + 1)


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_of_a_codebook_packed_for_the_gpu(metric):
    _, book = codebook(1, 150, 20, seed=3)
    book[5], book[70], book[71, 3] = 0.0, 1e17, NAN
    packed = cuda_kernel.pack(book, metric)
    codes = torch.where(book.isfinite().all(1, keepdim=True), book, 0.0).double()
    if metric == "l2":
        codes -= packed.center.double()
    elif metric == "cosine":
        codes /= codes.norm(dim=1, keepdim=True).clamp_min(1e-300)
    assert packed.rounded.shape == (192, 32)
    assert not packed.rounded[150:].any()
    assert not packed.rounded[:, 20:].any()
    lost = (codes - packed.rounded[:150, :20].double()).norm(dim=1)
    for block, rows in enumerate(torch.arange(150).split(64)):
        good = rows[rows != 71]
        assert codes[good].norm(dim=1).max() <= packed.longest[block]
        assert lost[good].max() <= packed.errors[block]
    assert packed.offsets[71] == -INF
    assert (packed.offsets[150:] == -INF).all()
    good = torch.tensor([i for i in range(150) if i != 71])
    half = codes[good].square().sum(1) / 2 if metric == "l2" else torch.zeros(149, dtype=torch.float64)
    torch.testing.assert_close(packed.offsets[good].double(), -half, rtol=1e-6, atol=0)
    if metric != "cosine":
        huge = cuda_kernel.pack(book * 1e20, metric)
        assert huge.longest[1] == INF
        assert huge.offsets[70] == 0
