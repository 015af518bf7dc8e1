import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import gelu, use_backend
from illume_fast.ops.gelu import FORMS, gelu_backward

SHAPES = [
    pytest.param((1, 1), id="one-element"),
    pytest.param((3, 1000), id="ragged-tail"),
    pytest.param((2, 7, 1024), id="whole-vectors"),
    pytest.param((40000,), id="one-long-row"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(gelu)
inf, nan = float("inf"), float("nan")


def randn(*shape, dtype=torch.float32, scale=3.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(DEVICE, dtype)


def in_double(x, form):
    exact = x.detach().double().cpu().requires_grad_()
    return exact, F.gelu(exact, approximate=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape, form):
    x = randn(*shape, dtype=dtype)
    skip_unless_runs(gelu, backend, x, form)
    exact, expected = in_double(x, form)
    leaf = x.clone().requires_grad_()
    with use_backend(backend):
        assert_matches(gelu(x, form), expected, "eager")
        actual = gelu(leaf, approximate=form)
        assert_matches(actual, expected, "forward")
        grad = torch.randn_like(actual)
        (of_x,) = torch.autograd.grad(actual, leaf, grad)
    (wanted,) = torch.autograd.grad(expected, exact, grad.double().cpu())
    assert_matches(of_x, wanted, "gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    x = randn(5, 333, dtype=dtype).cpu()
    with use_backend("cpu"):
        for form in FORMS:
            assert_matches(gelu(x, form), in_double(x, form)[1], f"{isa}, {form}")


@pytest.mark.parametrize("form", FORMS)
def test_small_results_keep_their_digits(isa, form):
    """Relative to each value: erf(x) + 1 would have lost them."""
    x = torch.cat((torch.linspace(-10, 10, 50_001), torch.logspace(-30, 0, 999), -torch.logspace(-30, 0, 999)))
    wide = x.double()
    if form == "none":
        expected = wide * 0.5 * torch.special.erfc(-wide / 2**0.5)
    else:
        expected = wide * torch.sigmoid(1.5957691216057308 * (wide + 0.044715 * wide**3))
    with use_backend("cpu"):
        actual = gelu(x, form)
    assert ((actual - expected).abs() <= 6e-7 * expected.abs()).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_special_values(backend, form, dtype):
    x = torch.tensor([0.0, -0.0, 6e4, -6e4, inf, -inf, nan], dtype=dtype, device=DEVICE)
    skip_unless_runs(gelu, backend, x, form)
    grad = torch.full_like(x, 2.0)
    with use_backend(backend):
        value, of_x = gelu(x, form), gelu_backward(grad, x, form)
    largest = x[2].item()
    expected = torch.tensor([0.0, -0.0, largest, 0.0, inf, nan, nan], dtype=dtype)
    torch.testing.assert_close(value.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    expected = torch.tensor([1.0, 1.0, 2.0, 0.0, 2.0, 0.0, nan], dtype=dtype)
    torch.testing.assert_close(of_x.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@given(
    shape=st.lists(st.integers(0, 40), max_size=3),
    dtype=st.sampled_from(DTYPES),
    form=st.sampled_from(FORMS),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(shape, dtype, form, transposed):
    x, grad = randn(*shape, 2, dtype=dtype).unbind(-1)
    if transposed and x.dim() > 1:
        x, grad = x.transpose(0, -1), grad.transpose(0, -1)
    actual = gelu(x, form)
    assert actual.is_contiguous()
    assert_matches(actual, in_double(x, form)[1], "forward")
    back = gelu_backward(grad, x, form)
    assert back.is_contiguous()
    with use_backend("reference"):
        assert_matches(back, gelu_backward(grad, x, form).double(), "backward")


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x = randn(3, 65)
    for form in FORMS:
        skip_unless_runs(gelu, backend, x, form)
        with use_backend(backend):
            torch.library.opcheck(gelu.overload, (x.clone().requires_grad_(), form))
            torch.library.opcheck(gelu_backward.overload, (x, x, form))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_agree_with_finite_differences(form):
    with use_backend("reference"):
        assert torch.autograd.gradcheck(lambda x: gelu(x, form), randn(2, 5).double().requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    x = randn(4, 8)
    with use_backend(backend):
        with pytest.raises(RuntimeError, match=r"gelu: x is torch.int64"):
            gelu(x.long())
        with pytest.raises(RuntimeError, match=r"gelu: approximate is 'erf', allowed are 'none', 'tanh'"):
            gelu(x, "erf")
        with pytest.raises(RuntimeError, match=r"gelu_backward: shapes \(3, 8\) and \(4, 8\) differ"):
            gelu_backward(x[:3], x, "none")
        with pytest.raises(RuntimeError, match=r"gelu_backward: dtypes torch.float16 and torch.float32 differ"):
            gelu_backward(x.half(), x, "none")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic, form):
    compiled = torch.compile(lambda x: gelu(x, form) + 1, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        x = randn(rows, 8).requires_grad_()
        actual, expected = compiled(x), gelu(x, form) + 1
        torch.testing.assert_close(actual, expected)
        for a, e in zip(torch.autograd.grad(actual.sum(), x), torch.autograd.grad(expected.sum(), x), strict=True):
            torch.testing.assert_close(a, e)
