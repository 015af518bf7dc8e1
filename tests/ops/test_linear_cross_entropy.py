import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import cross_entropy_within_ranges, linear_cross_entropy, use_backend
from illume_fast.ops.linear_cross_entropy import linear_cross_entropy_backward, linear_cross_entropy_op

SHAPES = [
    pytest.param((2, 3, 4), id="few-numbers"),
    pytest.param((3, 50, 33), id="ragged"),
    pytest.param((50, 1200, 40), id="two-chunks"),
    pytest.param((500, 70, 17), id="two-groups-of-rows"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(linear_cross_entropy_op)
IGNORED = -100


def inputs(rows, codes, size, dtype, ignored=0.3, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, size, generator=gen) for n in (rows, codes))
    labels = torch.randint(codes, (rows,), generator=gen)
    labels[torch.rand(rows, generator=gen) < ignored] = IGNORED
    return x.to(DEVICE, dtype), weight.to(DEVICE, dtype), labels.to(DEVICE)


def exact_losses(x, weight, labels):
    return F.cross_entropy(x @ weight.T, labels, ignore_index=IGNORED, reduction="none")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape):
    x, weight, labels = inputs(*shape, dtype)
    skip_unless_runs(linear_cross_entropy_op, backend, x, weight, labels, IGNORED)
    leaves, exact = ([a.clone().to(t).requires_grad_() for a in (x, weight)] for t in (dtype, torch.float64))
    expected = exact_losses(*exact, labels)
    with use_backend(backend):
        eager = linear_cross_entropy(x, weight, labels, reduction="none")
        actual = linear_cross_entropy(*leaves, labels, reduction="none")
        slopes = torch.randn_like(actual)
        grads = torch.autograd.grad(actual, leaves, slopes)
    assert actual.dtype == torch.float32
    for label, losses in (("eager", eager), ("forward", actual)):
        assert_matches(losses, expected, label)
    for label, a, e in zip(
        "x weight".split(), grads, torch.autograd.grad(expected, exact, slopes.double()), strict=True
    ):
        assert a.dtype == dtype
        assert_matches(a, e, f"gradient of {label}")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_are_those_of_torch(reduction):
    x, weight, labels = inputs(12, 9, 5, torch.float32)
    expected = F.cross_entropy(x @ weight.T, labels, reduction=reduction)
    torch.testing.assert_close(linear_cross_entropy(x, weight, labels, reduction=reduction), expected)
    folded = linear_cross_entropy(x.view(3, 4, 5), weight, labels.view(3, 4), reduction=reduction)
    torch.testing.assert_close(folded, expected.view(3, 4) if reduction == "none" else expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set_and_number_of_threads(isa, dtype):
    x, weight, labels = (a.cpu() for a in inputs(60, 1100, 70, dtype))
    threads = torch.get_num_threads()
    try:
        with use_backend("cpu"):
            losses = linear_cross_entropy(x, weight, labels, reduction="none")
            torch.set_num_threads(1)
            assert torch.equal(linear_cross_entropy(x, weight, labels, reduction="none"), losses)
    finally:
        torch.set_num_threads(threads)
    assert_matches(losses, exact_losses(x.double(), weight.double(), labels), isa)


@given(
    rows=st.integers(0, 8),
    codes=st.integers(1, 80),
    size=st.integers(0, 40),
    dtype=st.sampled_from(DTYPES),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(rows, codes, size, dtype, ignored, transposed):
    x, weight, labels = inputs(rows, codes, size, dtype, ignored)
    if transposed:
        x, weight = (a.T.contiguous().T for a in (x, weight))
    exact = [a.double().requires_grad_() for a in (x, weight)]
    expected = exact_losses(*exact, labels)
    leaves = [a.requires_grad_() for a in (x, weight)]
    actual = linear_cross_entropy(*leaves, labels, reduction="none")
    assert_matches(actual, expected, "losses")
    for a, e in zip(torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), exact), strict=True):
        assert a.shape == e.shape
        torch.testing.assert_close(a.double(), e, rtol=3e-2, atol=2e-2 if dtype != torch.float32 else 1e-5)


def test_ignored_rows_may_hold_anything():
    x, weight, labels = inputs(6, 7, 5, torch.float32, ignored=0.0)
    expected = linear_cross_entropy(x[:4], weight, labels[:4])
    labels[4:] = IGNORED
    x[4:] = float("nan")
    x.requires_grad_()
    loss = linear_cross_entropy(x, weight, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert x.grad[:4].isfinite().all()
    assert torch.equal(x.grad[4:], torch.zeros(2, 5))
    assert linear_cross_entropy(x, weight, torch.full_like(labels, IGNORED)).isnan()


def test_huge_and_special_logits():
    weight = torch.eye(40)
    x = torch.zeros(5, 40)
    x[0, 3], x[1, 3], x[2, :] = 1e4, -1e4, 3e4
    x[3, 39], x[4, 0] = float("nan"), float("inf")
    labels = torch.tensor([3, 3, 39, 0, 1])
    for backend in backends_here(linear_cross_entropy_op):
        with use_backend(backend):
            losses = linear_cross_entropy(x, weight, labels, reduction="none")
        torch.testing.assert_close(losses[:3], exact_losses(x[:3].double(), weight.double(), labels[:3]).float())
        assert not losses[3:].isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("codes", [1, 40, 700])
def test_logits_far_below_zero(backend, codes):
    x, weight = -1000 * torch.ones(3, 2, device=DEVICE), torch.ones(codes, 2, device=DEVICE)
    labels = torch.arange(3, device=DEVICE) % codes
    skip_unless_runs(linear_cross_entropy_op, backend, x, weight, labels, IGNORED)
    with use_backend(backend):
        losses = linear_cross_entropy(x, weight, labels, reduction="none")
    torch.testing.assert_close(losses.cpu(), torch.full((3,), float(codes)).log(), rtol=1e-3, atol=1e-3)


def test_labels_out_of_range_are_named():
    x, weight, labels = (a.cpu() for a in inputs(6, 7, 5, torch.float32, ignored=0.0))
    for wrong in (7, -1):
        labels[2] = wrong
        with use_backend("cpu"), pytest.raises(IndexError, match=f"label {wrong} is not among the 7 rows"):
            linear_cross_entropy(x, weight, labels)


def test_within_ranges_is_the_plain_loss_of_each_range():
    x, weight, _ = inputs(9, 30, 6, torch.float32)
    labels = torch.tensor([0, 4, 9, 10, 19, 20, 29, IGNORED, 12])
    ranges = [(10, 20), (0, 10), (20, 30)]
    losses = cross_entropy_within_ranges(x, weight, labels, ranges, reduction="none")
    for row, label in enumerate(labels.tolist()):
        lo = label // 10 * 10
        one = 0.0 if label == IGNORED else F.cross_entropy(weight[lo : lo + 10] @ x[row], torch.tensor(label - lo))
        assert losses[row].item() == pytest.approx(float(one), abs=1e-5)
    mean = cross_entropy_within_ranges(x, weight, labels, ranges)
    torch.testing.assert_close(mean, losses.sum() / 8)
    with pytest.raises(IndexError, match=r"label 12 lies in none of \[\(0, 10\), \(20, 30\)\]"):
        cross_entropy_within_ranges(
            x, weight, labels.where(labels != 10, 0).where(labels != 19, 0), [(0, 10), (20, 30)]
        )
    with pytest.raises(ValueError, match=r"overlap or do not lie in \[0, 30\)"):
        cross_entropy_within_ranges(x, weight, labels, [(0, 11), (10, 30)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x, weight, labels = inputs(5, 8, 6, torch.float32)
    skip_unless_runs(linear_cross_entropy_op, backend, x, weight, labels, IGNORED)
    with use_backend(backend):
        leaves = [a.clone().requires_grad_() for a in (x, weight)]
        torch.library.opcheck(linear_cross_entropy_op.overload, (*leaves, labels, IGNORED))
        losses, normalizers = linear_cross_entropy_op(x, weight, labels, IGNORED)
        torch.library.opcheck(linear_cross_entropy_backward.overload, (losses, x, weight, labels, normalizers, IGNORED))


def test_gradients_agree_with_finite_differences():
    x, weight, labels = inputs(6, 5, 4, torch.float64)
    leaves = [a.requires_grad_() for a in (x, weight)]
    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, labels), leaves)


def test_bad_arguments_name_both_values():
    x, weight, labels = inputs(4, 6, 8, torch.float32)
    with pytest.raises(RuntimeError, match=r"shapes \(4, 8\) and \(6, 7\), they must be"):
        linear_cross_entropy(x, weight[:, :7], labels)
    with pytest.raises(RuntimeError, match=r"labels and x have shapes \(3,\) and \(4, 8\)"):
        linear_cross_entropy(x, weight, labels[:3])
    with pytest.raises(RuntimeError, match=r"labels is torch.int32 \(4,\), it must be int64"):
        linear_cross_entropy(x, weight, labels.int())
    with pytest.raises(RuntimeError, match=r"x is torch.float32 and weight torch.float16"):
        linear_cross_entropy(x, weight.half(), labels)
    with pytest.raises(ValueError, match="unknown reduction 'all'; choose one of mean, sum, none"):
        linear_cross_entropy(x, weight, labels, reduction="all")


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        x, weight, labels = inputs(rows, 8, 16, torch.float32)
        args = [a.requires_grad_() for a in (x, weight)]
        actual, expected = compiled(*args, labels), linear_cross_entropy(*args, labels)
        torch.testing.assert_close(actual, expected)
        grads = (torch.autograd.grad(y, args) for y in (actual, expected))
        for a, e in zip(*grads, strict=True):
            torch.testing.assert_close(a, e)
