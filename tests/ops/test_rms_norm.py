import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import add_rms_norm, rms_norm, use_backend
from illume_fast.ops.rms_norm import rms_norm_backward

SHAPES = [
    pytest.param((1, 1), id="one-element"),
    pytest.param((3, 1000), id="ragged-tail"),
    pytest.param((2, 7, 256), id="whole-vectors"),
    pytest.param((150, 130), id="many-rows"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(rms_norm, add_rms_norm)
EPS = 1e-6


def inputs(shape, dtype, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(shape, generator=gen).to(DEVICE, dtype) for _ in range(2))
    weight = (1 + 0.1 * torch.randn(shape[-1:], generator=gen)).to(DEVICE, dtype)
    return x, residual, weight


def exact_norm(x, weight, eps=EPS):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape):
    x, _, weight = inputs(shape, dtype)
    skip_unless_runs(rms_norm, backend, x, weight, EPS)
    exact = [a.double().requires_grad_() for a in (x, weight)]
    expected = exact_norm(*exact)
    leaves = [a.requires_grad_() for a in (x, weight)]
    with use_backend(backend):
        assert_matches(rms_norm(x.detach(), weight.detach(), EPS), expected, "eager")
        actual = rms_norm(*leaves, EPS)
        grad = torch.randn_like(actual)
        grads = torch.autograd.grad(actual, leaves, grad)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    assert_matches(actual, expected, "forward")
    for label, a, e in zip(("grad_x", "grad_weight"), grads, expected_grads, strict=True):
        if shape == (1, 1) and label == "grad_x":  # 0 but for eps: nothing to compare it with
            assert a.abs().item() < 1e-3
        else:
            assert_matches(a, e, label)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_with_a_sum_matches_double(backend, dtype, shape):
    args = inputs(shape, dtype)
    skip_unless_runs(add_rms_norm, backend, *args, EPS)
    leaves = [a.clone().requires_grad_() for a in args]
    with use_backend(backend):
        normal, total = add_rms_norm(*leaves, EPS)
        grads_out = torch.randn_like(normal), torch.randn_like(total)
        grads = torch.autograd.grad((normal, total), leaves, grads_out)
    assert torch.equal(total, args[0] + args[1])
    rounded, weight = total.detach().double().requires_grad_(), args[2].double().requires_grad_()
    expected = exact_norm(rounded, weight)
    assert_matches(normal, expected, "forward")
    grad_total, grad_weight = torch.autograd.grad(expected, (rounded, weight), grads_out[0].double())
    grad_total += grads_out[1].double()
    for label, a, e in zip(
        ("grad_x", "grad_residual", "grad_weight"), grads, (grad_total, grad_total, grad_weight), strict=True
    ):
        assert_matches(a, e, label)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_output_alone(backend):
    x, residual, weight = (a.requires_grad_() for a in inputs((3, 20), torch.float32))
    skip_unless_runs(rms_norm, backend, x, weight, EPS)
    with use_backend(backend):
        _, total = add_rms_norm(x, residual, weight, EPS)
        grads = torch.autograd.grad(total.sum(), (x, residual, weight))
    for grad, expected in zip(grads, (1, 1, 0), strict=True):
        assert (grad == expected).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounds_as_hugging_face_does(backend):
    x, _, weight = inputs((64, 200), torch.bfloat16)
    skip_unless_runs(rms_norm, backend, x, weight, EPS)
    wide = x.float()
    normal = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(torch.bfloat16)
    with use_backend(backend):
        actual = rms_norm(x, weight, EPS)
    # the same but where float32 rounding decides between two bfloat16 neighbours
    assert ((actual == weight * normal).float().mean() > 0.99).item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    x, residual, weight = (a.cpu() for a in inputs((5, 333), dtype))
    with use_backend("cpu"):
        actual, total = add_rms_norm(x, residual, weight, EPS)
        grads = rms_norm_backward(x, residual, total, weight, EPS)
    assert_matches(actual, exact_norm(total.double(), weight.double()), isa)
    with use_backend("reference"):
        expected = rms_norm_backward(*(a.double() for a in (x, residual, total, weight)), EPS)
    for a, e in zip(grads, expected, strict=True):
        assert_matches(a, e, f"{isa} backward")


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e19, 3e38])
def test_norms_beyond_the_range_of_squares(isa, size):
    gen = torch.Generator().manual_seed(0)
    x = (torch.rand(3, 100, generator=gen) * 2 - 1) * size
    with use_backend("cpu"):
        actual = rms_norm(x, torch.ones(100), 0.0)
    assert_matches(actual, exact_norm(x.double(), 1.0, 0.0), isa)


def test_special_values(isa):
    rows = torch.ones(4, 40)
    rows[0, 3] = float("nan")
    rows[1, 3] = float("inf")
    rows[2] = 0
    with use_backend("cpu"):
        actual = rms_norm(rows, torch.ones(40), EPS)
    assert actual[0].isnan().all()
    assert actual[1, 3].isnan()
    assert (actual[1, :3] == 0).all()
    assert (actual[2] == 0).all()
    assert_matches(actual[3], torch.ones(40).double(), "clean row")


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_threads_do_not_matter(backend):
    x, residual, weight = inputs((300, 260), torch.float32)
    skip_unless_runs(rms_norm, backend, x, weight, EPS)
    threads = torch.get_num_threads()
    try:
        with use_backend(backend):
            results = []
            for count in (1, 3):
                torch.set_num_threads(count)
                results.append((*add_rms_norm(x, residual, weight, EPS), *rms_norm_backward(x, None, x, weight, EPS)))
            alone = rms_norm(x[7:8], weight, EPS), rms_norm(x, weight, EPS)[7:8]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*alone)
    if backend == "cpu":
        for one, three in zip(*results, strict=True):
            assert torch.equal(one, three)


@given(
    leading=st.lists(st.integers(0, 3), max_size=2),
    columns=st.integers(0, 70),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["packed", "sliced", "transposed"]),
)
def test_any_shape_and_stride(leading, columns, dtype, layout):
    shape = (*leading, columns)
    x, residual, weight = inputs((*leading, 2 * columns) if layout == "sliced" else shape, dtype)
    if layout == "sliced":
        x, residual, weight = x[..., columns:], residual[..., :columns], weight[::2]
    if layout == "transposed" and len(shape) > 1:
        x, residual = x.transpose(0, -1), residual.transpose(0, -1)
        weight = inputs((x.shape[-1],), dtype)[2]
    normal, total = add_rms_norm(x, residual, weight, EPS)
    assert normal.is_contiguous()
    assert total.is_contiguous()
    assert torch.equal(total, x + residual)
    assert_matches(normal, exact_norm(total.double(), weight.double()), "forward")
    assert torch.equal(rms_norm(total, weight, EPS), normal)
    grads = rms_norm_backward(x, residual, total, weight, EPS)
    with use_backend("reference"):
        expected = rms_norm_backward(*(a.double() for a in (x, residual, total, weight)), EPS)
    for a, e in zip(grads, expected, strict=True):
        assert a.is_contiguous()
        if a.numel() and e.abs().max() > 1e-3:
            assert_matches(a, e, "backward")


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    x, residual, weight = inputs((3, 65), torch.float32)
    skip_unless_runs(rms_norm, backend, x, weight, EPS)
    with use_backend(backend):
        torch.library.opcheck(rms_norm_backward.overload, (x, residual, x, weight, EPS))
        torch.library.opcheck(rms_norm_backward.overload, (x, None, x, weight, EPS))
        x, residual, weight = (a.requires_grad_() for a in (x, residual, weight))
        torch.library.opcheck(rms_norm.overload, (x, weight, EPS))
        torch.library.opcheck(add_rms_norm.overload, (x, residual, weight, EPS))


def test_gradients_agree_with_finite_differences():
    x, residual, weight = (a.double().requires_grad_() for a in inputs((2, 5), torch.float32))
    with use_backend("reference"):
        assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), (x, weight))
        assert torch.autograd.gradcheck(lambda x, r, w: add_rms_norm(x, r, w, EPS), (x, residual, weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    x, _, weight = inputs((4, 8), torch.float32)
    bad = [
        ((x, weight[:7], EPS), r"x is \(4, 8\) and weight \(7,\), not \[..., H\] and \[H\]"),
        ((x, weight[None], EPS), r"x is \(4, 8\) and weight \(1, 8\)"),
        ((x[0, 0], weight, EPS), r"x is \(\) and weight \(8,\)"),
        ((x, weight.half(), EPS), "x is torch.float32 and weight torch.float16"),
        ((x.long(), weight.long(), EPS), "x is torch.int64, not a floating-point type"),
        ((x, weight, -1.0), "eps is -1.0, not at least 0"),
        ((x, weight, float("nan")), "eps is nan, not at least 0"),
    ]
    with use_backend(backend):
        for args, message in bad:
            with pytest.raises(RuntimeError, match=f"rms_norm: {message}"):
                rms_norm(*args)
        with pytest.raises(RuntimeError, match=r"add_rms_norm: x is \(4, 8\) and residual \(3, 8\)"):
            add_rms_norm(x, x[:3], weight, EPS)
        with pytest.raises(RuntimeError, match=r"add_rms_norm: x is torch.float32 and residual torch.float16"):
            add_rms_norm(x, x.half(), weight, EPS)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    def block(x, residual, weight):
        normal, total = add_rms_norm(x, residual, weight, EPS)
        return rms_norm(normal + total, weight, EPS)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        args = [a.requires_grad_() for a in inputs((rows, 8), torch.float32)]
        actual, expected = compiled(*args), block(*args)
        torch.testing.assert_close(actual, expected)
        for a, e in zip(
            torch.autograd.grad(actual.sum(), args), torch.autograd.grad(expected.sum(), args), strict=True
        ):
            torch.testing.assert_close(a, e)
