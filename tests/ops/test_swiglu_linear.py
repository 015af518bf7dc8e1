import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import linear, swiglu, swiglu_linear, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(swiglu_linear)


def inputs(rows, outputs, size, dtype, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(n, size, generator=gen).to(DEVICE, dtype) for n in (rows, outputs, outputs)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 65, 33), (70, 40, 130)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend, dtype, shape):
    args = [a / shape[2] ** 0.25 for a in inputs(*shape, dtype)]
    skip_unless_runs(swiglu_linear, backend, *args)
    leaves = [a.clone().requires_grad_() for a in args]
    exact = [a.double().requires_grad_() for a in args]
    with use_backend("reference"):
        expected = swiglu_linear(*exact)
    with use_backend(backend):
        actual = swiglu_linear(*leaves)
        grad = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1)).to(actual)
        actual.backward(grad)
    expected.backward(grad.double())
    assert_matches(actual, expected, "forward")
    for name, leaf, wanted in zip(("x", "gate_weight", "up_weight"), leaves, exact, strict=True):
        assert_matches(leaf.grad, wanted.grad, f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_has_the_bits_of_its_parts(isa, dtype):
    x, gate, up = (a.cpu() for a in inputs(60, 100, 2100, dtype))
    with use_backend("cpu"):
        assert torch.equal(swiglu_linear(x, gate, up), swiglu(linear(x, gate), linear(x, up)))
        assert torch.equal(swiglu_linear(x[7:9], gate, up), swiglu_linear(x, gate, up)[7:9])


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    outputs=st.integers(0, 70),
    size=st.integers(0, 80),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape_and_stride(leading, outputs, size, dtype):
    x, gate, up = inputs(1, outputs, 2 * size, dtype)
    x, gate, up = x[0].expand(*leading, 2 * size)[..., ::2], gate[:, :size], up[:, size:]
    for backend in backends_here(swiglu_linear):
        with use_backend(backend):
            actual = swiglu_linear(x, gate, up)
            assert actual.is_contiguous()
            assert torch.equal(actual, swiglu(linear(x, gate), linear(x, up)))


def test_special_values_stay_in_their_row(isa):
    x, gate, up = (a.cpu() for a in inputs(9, 40, 77, torch.float32))
    with use_backend("cpu"):
        clean = swiglu_linear(x, gate, up)
        x[2, 76], x[5, 0] = float("nan"), float("inf")
        actual = swiglu_linear(x, gate, up)
    assert actual[2].isnan().all()
    kept = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(actual[kept], clean[kept])


def test_registration_is_complete():
    args = [a.requires_grad_() for a in inputs(3, 5, 17, torch.float32)]
    for backend in backends_here(swiglu_linear):
        with use_backend(backend):
            torch.library.opcheck(swiglu_linear.overload, args)


def test_gradients_agree_with_finite_differences():
    args = [a.double().requires_grad_() for a in inputs(3, 4, 5, torch.float32)]
    with use_backend("reference"):
        assert torch.autograd.gradcheck(swiglu_linear, args)


def test_compiles_without_graph_breaks():
    args = inputs(4, 5, 17, torch.float32)
    compiled = torch.compile(lambda *a: swiglu_linear(*a) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), swiglu_linear(*args) + 1)


def test_bad_arguments_name_both_values():
    x, gate, up = inputs(4, 6, 8, torch.float32)
    with pytest.raises(RuntimeError, match=r"swiglu_linear: .* shapes \(4, 8\) and \(6, 7\), they must be"):
        swiglu_linear(x, gate[:, :7], up)
    with pytest.raises(RuntimeError, match=r"have shapes \(6, 8\) and \(5, 8\); they must be one"):
        swiglu_linear(x, gate, up[:5])
    with pytest.raises(RuntimeError, match=r"swiglu_linear: dtypes torch.float32 and torch.float16 differ"):
        swiglu_linear(x, gate, up.half())
