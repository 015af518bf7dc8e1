import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import linear, use_backend

SHAPES = [
    pytest.param((1, 1, 1), id="one-number"),
    pytest.param((2, 9, 33), id="ragged"),
    pytest.param((6, 32, 64), id="whole-tiles"),
    pytest.param((13, 70, 130), id="tiles-and-rest"),
    pytest.param((61, 35, 4100), id="several-blocks-of-each"),
    pytest.param((200, 70, 66), id="many-rows"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(linear)


def inputs(rows, outputs, size, dtype, seed=0):
    gen = torch.Generator().manual_seed(seed)
    shapes = ((rows, size), (outputs, size), (outputs,))
    return [torch.randn(shape, generator=gen).to(DEVICE, dtype) for shape in shapes]


def in_double(x, weight, bias):
    total = x.double() @ weight.double().T
    return total if bias is None else total + bias.double()


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape, with_bias):
    x, weight, bias = inputs(*shape, dtype)
    args = (x, weight, bias) if with_bias else (x, weight)
    skip_unless_runs(linear, backend, *args)
    leaves = [a.clone().requires_grad_() for a in args]
    exact = [a.double().requires_grad_() for a in args]
    expected = in_double(*exact) if with_bias else in_double(*exact, None)
    with use_backend(backend):
        assert_matches(linear(*args), expected, "eager")
        actual = linear(*leaves)
        grad = torch.randn_like(actual)
        grads = torch.autograd.grad(actual, leaves, grad)
    assert_matches(actual, expected, "forward")
    for label, a, e in zip(
        ("x", "weight", "bias"), grads, torch.autograd.grad(expected, exact, grad.double()), strict=False
    ):
        assert_matches(a, e, f"gradient of {label}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    for shape in ((1, 5, 7), (3, 37, 100), (20, 66, 4200)):
        args = [a.cpu() for a in inputs(*shape, dtype)]
        with use_backend("cpu"):
            assert_matches(linear(*args), in_double(*args), isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_neighbours_or_the_threads(isa, dtype):
    x, weight, bias = (a.cpu() for a in inputs(130, 300, 2500, dtype))
    threads = torch.get_num_threads()
    try:
        with use_backend("cpu"):
            together = linear(x, weight, bias)
            for first, last in ((0, 1), (3, 5), (7, 14), (10, 50), (60, 130)):
                assert torch.equal(linear(x[first:last], weight, bias), together[first:last])
            torch.set_num_threads(1)
            assert torch.equal(linear(x, weight, bias), together)
    finally:
        torch.set_num_threads(threads)


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    outputs=st.integers(0, 40),
    size=st.integers(0, 80),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
    with_bias=st.booleans(),
)
def test_any_shape_and_stride(leading, outputs, size, dtype, transposed, with_bias):
    gen = torch.Generator().manual_seed(size)
    x = torch.randn(*leading, 2 * size, generator=gen).to(DEVICE, dtype)[..., ::2]
    weight = torch.randn(outputs, size, generator=gen).to(DEVICE, dtype)
    if transposed:
        weight = torch.randn(size, outputs, generator=gen).to(DEVICE, dtype).T
    bias = torch.randn(2 * outputs, generator=gen).to(DEVICE, dtype)[::2] if with_bias else None
    actual = linear(x, weight, bias)
    assert actual.is_contiguous()
    assert actual.dtype == dtype
    assert_matches(actual, in_double(x, weight, bias), "forward")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values_stay_in_their_row_and_column(isa, dtype):
    x, weight, _ = (a.cpu() for a in inputs(9, 40, 77, dtype))
    clean = in_double(x, weight, None)
    x[2, 76], x[5, 0], weight[33, 40] = float("nan"), float("inf"), float("-inf")
    with use_backend("cpu"):
        actual = linear(x, weight)
    assert actual[2].isnan().all()
    assert not actual[5].isfinite().any()
    assert not actual[:, 33].isfinite().any()
    kept_rows, kept = [0, 1, 3, 4, 6, 7, 8], [i for i in range(40) if i != 33]
    assert_matches(actual[kept_rows][:, kept], clean[kept_rows][:, kept], isa)


def test_huge_and_tiny_numbers(isa):
    x = torch.tensor([[1e20, -1e20, 1e-20, 3.0]])
    weight = torch.tensor([[1e18, 1e18, 0.0, 1.0], [1e-18, 1e-18, 1e-18, 0.0], [0.0, 0.0, 1e20, 1.0]])
    with use_backend("cpu"):
        actual = linear(x, weight)
    assert actual[0, 2].item() == pytest.approx(4.0, rel=1e-6)
    assert actual.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x, weight, bias = inputs(3, 5, 17, torch.float32)
    skip_unless_runs(linear, backend, x, weight, bias)
    with use_backend(backend):
        torch.library.opcheck(linear.overload, [a.requires_grad_() for a in (x, weight, bias)])
        torch.library.opcheck(linear.overload, [x.detach(), weight.detach(), None])


def test_gradients_agree_with_finite_differences():
    args = [a.double().requires_grad_() for a in inputs(3, 4, 5, torch.float32)]
    with use_backend("reference"):
        assert torch.autograd.gradcheck(linear, args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    x, weight, bias = inputs(4, 6, 8, torch.float32)
    with use_backend(backend):
        with pytest.raises(RuntimeError, match=r"linear: .* shapes \(4, 8\) and \(6, 7\), they must be"):
            linear(x, weight[:, :7])
        with pytest.raises(RuntimeError, match=r"linear: bias has shape \(5,\), it must be \[6\]"):
            linear(x, weight, bias[:5])
        with pytest.raises(RuntimeError, match=r"linear: dtypes torch.float32 and torch.float16 differ"):
            linear(x, weight.half())
        with pytest.raises(RuntimeError, match=r"linear: x is torch.int64"):
            linear(x.long(), weight.long())


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    compiled = torch.compile(lambda *a: linear(*a) + 1, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        args = [a.requires_grad_() for a in inputs(rows, 8, 16, torch.float32)]
        actual, expected = compiled(*args), linear(*args) + 1
        torch.testing.assert_close(actual, expected)
        grads = (torch.autograd.grad(y.sum(), args) for y in (actual, expected))
        for a, e in zip(*grads, strict=True):
            torch.testing.assert_close(a, e)
