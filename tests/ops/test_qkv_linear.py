import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import linear, qkv_linear, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(qkv_linear)


def inputs(rows, outputs, size, dtype, with_bias=True, seed=0):
    """(x, three weights of `outputs` rows, three biases or None)."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=gen).to(DEVICE, dtype)
    weights = [torch.randn(n, size, generator=gen).to(DEVICE, dtype) for n in outputs]
    biases = [torch.randn(n, generator=gen).to(DEVICE, dtype) if with_bias else None for n in outputs]
    return x, *weights, *biases


def one_by_one(x, *layers):
    return [linear(x, weight, bias) for weight, bias in zip(layers[:3], layers[3:], strict=True)]


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(1, (1, 1, 1), 1), (2, (65, 32, 7), 33), (70, (40, 33, 64), 130)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend, dtype, shape, with_bias):
    args = inputs(*shape, dtype, with_bias)
    skip_unless_runs(qkv_linear, backend, *args)
    leaves = [None if a is None else a.clone().requires_grad_() for a in args]
    exact = [None if a is None else a.double().requires_grad_() for a in args]
    with use_backend("reference"):
        expected = qkv_linear(*exact)
    with use_backend(backend):
        outputs = qkv_linear(*leaves)
        gen = torch.Generator().manual_seed(1)
        weights = [torch.randn(y.shape, generator=gen).to(y) for y in outputs]
        torch.autograd.backward(outputs, weights)
    torch.autograd.backward(expected, [w.double() for w in weights])
    for name, actual, wanted in zip("qkv", outputs, expected, strict=True):
        assert actual.is_contiguous()
        assert_matches(actual, wanted, name)
    for i, (leaf, wanted) in enumerate(zip(leaves, exact, strict=True)):
        if leaf is not None:
            assert_matches(leaf.grad, wanted.grad, f"gradient of argument {i}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_has_the_bits_of_three_layers(isa, dtype):
    args = [a.cpu() for a in inputs(9, (100, 40, 40), 2100, dtype)]
    with use_backend("cpu"):
        for actual, expected in zip(qkv_linear(*args), one_by_one(*args), strict=True):
            assert torch.equal(actual, expected)


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    outputs=st.lists(st.integers(0, 70), min_size=3, max_size=3),
    size=st.integers(0, 80),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
)
def test_any_shape_and_stride(leading, outputs, size, dtype, with_bias):
    x, *layers = inputs(1, outputs, 2 * size, dtype, with_bias)
    x = x[0].expand(*leading, 2 * size)[..., ::2]
    layers = [weight[:, :size] for weight in layers[:3]] + layers[3:]
    for backend in backends_here(qkv_linear):
        with use_backend(backend):
            for actual, expected in zip(qkv_linear(x, *layers), one_by_one(x, *layers), strict=True):
                assert torch.equal(actual, expected)


def test_registration_is_complete():
    args = [a.requires_grad_() for a in inputs(3, (5, 4, 3), 17, torch.float32)]
    for backend in backends_here(qkv_linear):
        with use_backend(backend):
            torch.library.opcheck(qkv_linear.overload, args)
            torch.library.opcheck(qkv_linear.overload, [a.detach() for a in args[:4]])


def test_gradients_agree_with_finite_differences():
    args = [a.double().requires_grad_() for a in inputs(3, (4, 3, 2), 5, torch.float32)]
    with use_backend("reference"):
        assert torch.autograd.gradcheck(qkv_linear, args)


def test_compiles_without_graph_breaks():
    args = inputs(4, (5, 4, 3), 17, torch.float32)
    compiled = torch.compile(lambda *a: sum(y.sum() for y in qkv_linear(*a)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), sum(y.sum() for y in qkv_linear(*args)))


def test_bad_arguments_name_both_values():
    x, q, k, v, *_ = inputs(4, (6, 5, 5), 8, torch.float32)
    with pytest.raises(RuntimeError, match=r"qkv_linear: .* shapes \(4, 8\) and \(5, 7\), they must be"):
        qkv_linear(x, q, k[:, :7], v)
    with pytest.raises(RuntimeError, match=r"qkv_linear: bias has shape \(6,\), it must be \[5\]"):
        qkv_linear(x, q, k, v, None, None, torch.zeros(6))
    with pytest.raises(RuntimeError, match=r"qkv_linear: dtypes torch.float32 and torch.float16 differ"):
        qkv_linear(x, q, k, v.half())
