import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import swiglu, use_backend
from illume_fast.ops.swiglu import swiglu_backward

SHAPES = [
    pytest.param((1, 1), id="one-element"),
    pytest.param((3, 1000), id="ragged-tail"),
    pytest.param((2, 7, 1024), id="whole-vectors"),
    pytest.param((40000,), id="one-long-row"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(swiglu)


def inputs(shape, dtype, layout="packed"):
    gen = torch.Generator().manual_seed(0)
    if layout == "packed":
        return [torch.randn(shape, generator=gen).to(DEVICE, dtype) for _ in range(2)]
    fused = torch.randn(*shape[:-1], 2 * shape[-1], generator=gen).to(DEVICE, dtype)
    return list(fused.chunk(2, dim=-1))


def in_double(args):
    exact = [a.detach().double().requires_grad_() for a in args]
    return exact, torch.nn.functional.silu(exact[0]) * exact[1]


@pytest.mark.parametrize("layout", ["packed", "fused"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape, layout):
    args = inputs(shape, dtype, layout)
    skip_unless_runs(swiglu, backend, *args)
    exact, expected = in_double(args)
    leaves = [a.requires_grad_() for a in (x.detach() for x in args)]
    with use_backend(backend):
        assert_matches(swiglu(*args), expected, "eager")
        actual = swiglu(*leaves)
        assert_matches(actual, expected, "forward")
        grad = torch.randn_like(actual)
        actual_grads = torch.autograd.grad(actual, leaves, grad)
    for label, a, e in zip(
        ("grad_gate", "grad_up"), actual_grads, torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert_matches(a, e, label)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    args = inputs((5, 333), dtype, "fused")
    _, expected = in_double(args)
    with use_backend("cpu"):
        actual = swiglu(*(a.cpu() for a in args))
    assert_matches(actual, expected, isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(isa, dtype):
    special = [0.0, -0.0, 1e-7, -1e-7, 88.0, -88.0, 105.0, -105.0, 6e4, -6e4, float("inf"), float("nan")]
    gate = torch.tensor(special, dtype=dtype)
    up = torch.full_like(gate, 0.5)
    with use_backend("cpu"):
        actual = swiglu(gate, up)
    expected = (torch.nn.functional.silu(gate.double()) * 0.5).to(dtype)
    rtol, atol = {torch.float32: (1e-6, 1e-30), torch.float16: (1e-3, 1e-7), torch.bfloat16: (8e-3, 1e-30)}[dtype]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_saturated_gates(backend):
    gate = torch.tensor([-1e20, -1e20, 1e20, -200.0], device=DEVICE)
    up, grad = torch.full_like(gate, 1e20), torch.tensor([1e20, -3e37, 0.5, 1e25], device=DEVICE)
    skip_unless_runs(swiglu_backward, backend, grad, gate, up)
    with use_backend(backend):
        of_gate, of_up = swiglu_backward(grad, gate, up)
    torch.testing.assert_close(of_gate.cpu(), torch.tensor([0.0, 0.0, 5e19, 0.0]))
    torch.testing.assert_close(of_up.cpu(), torch.tensor([0.0, 0.0, 5e19, 0.0]))


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    columns=st.integers(0, 70),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
)
def test_any_shape_and_stride(leading, columns, dtype, transposed):
    gate, up = inputs((*leading, columns), dtype, "fused")
    if transposed and gate.dim() > 1:
        gate, up = gate.transpose(0, -1), up.transpose(0, -1)
    actual = swiglu(gate, up)
    assert actual.is_contiguous()
    assert_matches(actual, in_double((gate, up))[1], "forward")
    with use_backend("reference"):
        expected = swiglu_backward(up, gate, up)
    for a, e in zip(swiglu_backward(up, gate, up), expected, strict=True):
        assert a.is_contiguous()
        assert_matches(a, e.double(), "backward")


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = inputs((3, 65), torch.float32)
    skip_unless_runs(swiglu, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(swiglu.overload, [a.requires_grad_() for a in args])
        torch.library.opcheck(swiglu_backward.overload, [a.detach() for a in (args[0], *args)])


def test_gradients_agree_with_finite_differences():
    args = [a.double().requires_grad_() for a in inputs((2, 5), torch.float32)]
    with use_backend("reference"):
        assert torch.autograd.gradcheck(swiglu, args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    gate, _ = inputs((4, 8), torch.float32)
    with use_backend(backend):
        with pytest.raises(RuntimeError, match=r"swiglu: shapes \(4, 8\) and \(3, 8\) differ"):
            swiglu(gate, gate[:3])
        with pytest.raises(RuntimeError, match=r"swiglu: dtypes torch.float32 and torch.float16 differ"):
            swiglu(gate, gate.half())
        with pytest.raises(RuntimeError, match=r"swiglu: gate is torch.int64"):
            swiglu(gate.long(), gate.long())


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    compiled = torch.compile(lambda g, u: swiglu(g, u) + 1, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        args = [a.requires_grad_() for a in inputs((rows, 8), torch.float32)]
        actual, expected = compiled(*args), swiglu(*args) + 1
        torch.testing.assert_close(actual, expected)
        for a, e in zip(
            torch.autograd.grad(actual.sum(), args), torch.autograd.grad(expected.sum(), args), strict=True
        ):
            torch.testing.assert_close(a, e)
