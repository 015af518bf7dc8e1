import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import quantize, use_backend
from illume_fast.ops.quantize import GRADIENTS, quantize_backward, quantize_codebook_gradient

BACKENDS = backend_names(quantize)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ("values", "commitment", "distortion", "grad_x", "grad_codebook")


def inputs(leading=(30,), size=33, codes=7, dtype=torch.float32, book=torch.float32, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, size, generator=gen).to(DEVICE, dtype)
    codebook = torch.randn(codes, size, generator=gen).to(DEVICE, book)
    if size == 1:  # numbers of opposite signs cannot be turned into each other
        x, codebook = x.abs() + 0.1, codebook.abs() + 0.1
    return x, codebook, torch.randint(max(1, codes), leading, generator=gen).to(DEVICE)


def turned(x, codes):
    """lambda R x, differentiable in x alone, with R as a matrix for each vector: the definition."""
    with torch.no_grad():
        e, q = (t / t.norm(dim=-1, keepdim=True) for t in (x, codes))
        r = (e + q) / (e + q).norm(dim=-1, keepdim=True)
        R = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        R = R - 2 * r[..., :, None] * r[..., None, :] + 2 * q[..., :, None] * e[..., None, :]
        scale = codes.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True)
    return scale * (R @ x[..., None])[..., 0]


def in_double(x, codebook, ids, rule, slopes=None):
    """What plain torch makes of the definitions, in the order of NAMES; `slopes` are the outputs' gradients."""
    x, codebook = (t.detach().double().requires_grad_() for t in (x, codebook))
    codes = codebook[ids]
    values = turned(x, codes.detach()) if rule == "rotation" else x + (codes - x).detach()
    size = max(1, x.shape[-1])
    errors = [(a - b).square().sum(-1) / size for a, b in ((x, codes.detach()), (x.detach(), codes))]
    results = values.detach(), *(e.detach() for e in errors)
    if slopes is None:
        return results
    slopes = [s.double() for s in slopes]
    return *results, *torch.autograd.grad((values, *errors), (x, codebook), slopes, materialize_grads=True)


def trained(x, codebook, ids, rule, slopes):
    x, codebook = (t.detach().requires_grad_() for t in (x, codebook))
    outputs = quantize(x, codebook, ids, rule)
    return *outputs, *torch.autograd.grad(outputs, (x, codebook), slopes, materialize_grads=True)


def some_slopes(x, ids, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=gen).to(x)] + [
        torch.randn(ids.shape, generator=gen).to(DEVICE) for _ in range(2)
    ]


def assert_trains(x, codebook, ids, rule, slopes=None):
    slopes = some_slopes(x, ids) if slopes is None else slopes
    expected = in_double(x, codebook, ids, rule, slopes)
    for name, actual, e in zip(NAMES, trained(x, codebook, ids, rule, slopes), expected, strict=True):
        assert_matches(actual, e, name)


@pytest.mark.parametrize("rule", GRADIENTS)
@pytest.mark.parametrize(
    "shape", [((1,), 1, 1), ((5000,), 7, 3), ((2, 3, 5), 64, 90), ((9,), 700, 4), ((), 16, 2)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, shape, rule):
    args = inputs(*shape, dtype)
    skip_unless_runs(quantize, backend, *args, rule)
    with use_backend(backend):
        assert_trains(*args, rule)


@pytest.mark.parametrize("rule", GRADIENTS)
@pytest.mark.parametrize("book", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, book, rule):
    args = [t.cpu() for t in inputs((333,), 37, 11, dtype, book)]
    with use_backend("cpu"):
        assert_trains(*args, rule, [s.cpu() for s in some_slopes(args[0], args[2])])


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_the_codes_themselves(backend):
    x, codebook, ids = inputs((40,), 21, 6)
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    with use_backend(backend):
        values, commitment, distortion = quantize(x, codebook, ids)
        assert torch.equal(values, codebook[ids])
        assert torch.equal(commitment, distortion)
        assert torch.equal(quantize(x.bfloat16(), codebook, ids)[0], codebook[ids].bfloat16())


@pytest.mark.parametrize("rule", GRADIENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_output_teaches_one_input(backend, rule):
    x, codebook, ids = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    skip_unless_runs(quantize, backend, x, codebook, ids, rule)
    with use_backend(backend):
        outputs = quantize(x, codebook, ids, rule)
        learns = [
            [g is not None for g in torch.autograd.grad(o.sum(), (x, codebook), retain_graph=True, allow_unused=True)]
            for o in outputs
        ]
        (straight,) = torch.autograd.grad(quantize(x, codebook, ids)[0], x, torch.ones_like(x))
    assert learns == [[True, False], [True, False], [False, True]]
    assert torch.equal(straight, torch.ones_like(x))


@pytest.mark.parametrize("frozen", [0, 1])
def test_inputs_may_be_constants(frozen):
    args = list(inputs())
    leaf = args[1 - frozen].requires_grad_()
    outputs = quantize(*args, "rotation")
    assert torch.autograd.grad(sum(o.sum() for o in outputs), leaf)[0].shape == leaf.shape


def test_threads_change_nothing():
    args = inputs((20000,), 16, 100)
    slopes = some_slopes(args[0], args[2])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(trained(*args, "rotation", slopes))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def _turned_over(t):
    return t.permute(tuple(reversed(range(t.dim()))))


@given(
    leading=st.lists(st.integers(0, 4), max_size=2),
    size=st.integers(0, 70),
    codes=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
    rule=st.sampled_from(GRADIENTS),
)
def test_any_shape_and_stride(leading, size, codes, dtype, transposed, rule):
    x, codebook, ids = inputs(tuple(leading), size, codes, dtype)
    slopes = some_slopes(x, ids)
    if transposed:
        x, ids, codebook = (_turned_over(_turned_over(t).contiguous()) for t in (x, ids, codebook))
        slopes[0] = slopes[0].transpose(0, -1).contiguous().transpose(0, -1)
    assert_trains(x, codebook, ids, rule, slopes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_codes_and_no_vectors(backend):
    x, codebook, ids = inputs((0,), 4, 0)
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    with use_backend(backend):
        results = trained(x, codebook, ids, "rotation", some_slopes(x, ids))
    assert [r.numel() for r in results] == [0] * 5


@pytest.mark.parametrize("x_scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("code_scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotation_of_huge_and_tiny_vectors(backend, x_scale, code_scale):
    x, codebook, ids = inputs((50,), 19, 6)
    x, codebook = x * x_scale, codebook * code_scale
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    # a gradient that float32 can hold
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE) * min(1.0, x_scale / code_scale)
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(turned(exact, codebook.double()[ids]), exact, grad.double())
    with use_backend(backend):
        actual = quantize_backward(grad, None, x, codebook, ids, "rotation")
    scale = expected.abs().max()
    assert_matches((actual.double() / scale).float(), expected / scale, "grad_x")


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_no_direction_can_be_turned_the_gradient_passes(backend):
    x, codebook, ids = inputs((4,), 12, 4)
    ids[:] = torch.arange(4)
    x[0], codebook[1] = 0, 0
    codebook[2] = -3 * x[2]
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    grad = some_slopes(x, ids)[0]
    with use_backend(backend):
        actual = quantize_backward(grad, None, x, codebook, ids, "rotation")
    assert torch.equal(actual[:3], grad[:3])
    assert not torch.equal(actual[3], grad[3])


@pytest.mark.parametrize("angle", [1e-3, 3e-2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_opposite_directions(backend, angle):
    x, codebook, _ = inputs((6,), 12, 6)
    codebook = -x + angle * codebook
    ids = torch.arange(6, device=DEVICE)
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    with use_backend(backend):
        slopes = some_slopes(x, ids)
        expected = in_double(x, codebook, ids, "rotation", slopes)[3]
        assert_matches(trained(x, codebook, ids, "rotation", slopes)[3], expected, "grad_x")


@pytest.mark.parametrize("rule", GRADIENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_row(backend, rule):
    x, codebook, ids = inputs((20,), 6, 5)
    ids[:] = torch.arange(20) % 4
    x[3, 1], x[7, 0] = torch.nan, torch.inf
    skip_unless_runs(quantize, backend, x, codebook, ids, rule)
    with use_backend(backend):
        results = trained(x, codebook, ids, rule, some_slopes(x, ids))
    assert results[0].isfinite().all()
    for result in results[1:3]:
        assert (~result.isfinite()).nonzero()[:, 0].tolist() == [3, 7]
    good = results[3].isfinite().all(1)
    assert (~good).nonzero()[:, 0].tolist() == [3, 7]
    assert (~results[4].isfinite().all(1)).nonzero()[:, 0].tolist() == [3]


@pytest.mark.parametrize("bad", [5, -1, 2**62])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])
def test_ids_out_of_range_are_refused(backend, bad):
    x, codebook, ids = inputs((10,), 2, 5)
    ids[7] = bad
    slopes = some_slopes(x, ids)
    skip_unless_runs(quantize, backend, x, codebook, ids, "rotation")
    with use_backend(backend):
        for op, args in (
            (quantize, ()),
            (quantize_backward, tuple(slopes[:2])),
            (quantize_codebook_gradient, (slopes[2],)),
        ):
            rest = ("rotation",) if op is quantize_backward else ()
            with pytest.raises(RuntimeError, match=rf"{op.__name__}: ids must lie in \[0, 5\), got {bad}"):
                op(*args, x, codebook, ids, *rest)


def test_bad_arguments_name_both_values():
    x, codebook, ids = inputs((10,), 2, 5)
    for args, message in (
        ((x[:, :1], codebook, ids), r"shapes \(10, 1\) and \(5, 2\)"),
        ((x, codebook, ids[:3]), r"ids is torch.int64 \(3,\), it must be int64 \(10,\)"),
        ((x, codebook, ids.int()), "ids is torch.int32"),
        ((x.long(), codebook, ids), "x is torch.int64 and codebook torch.float32"),
        ((x, codebook, ids, "rotate"), "gradient is 'rotate', it must be one of straight_through, rotation"),
    ):
        with pytest.raises(RuntimeError, match=f"quantize: .*{message}"):
            quantize(*args)
    with pytest.raises(RuntimeError, match=r"grad is torch.float64 \(10, 2\) on .*, it must be torch.float32"):
        quantize_backward(x.double(), None, x, codebook, ids, "rotation")


@pytest.mark.parametrize("rule", GRADIENTS)
def test_gradients_agree_with_finite_differences(rule):
    x, codebook, ids = inputs((4,), 5, 3)
    x, codebook = x.double().requires_grad_(), codebook.double().requires_grad_()
    with use_backend("reference"):
        assert torch.autograd.gradcheck(lambda x: quantize(x, codebook.detach(), ids, rule)[1], x)
        assert torch.autograd.gradcheck(lambda c: quantize(x.detach(), c, ids, rule)[2], codebook)
        # the values do not move with x; what they stand for does, and R changes with x no more than it is a constant
        jacobian = torch.autograd.functional.jacobian(lambda x: quantize(x, codebook, ids, rule)[0], x)
    if rule == "straight_through":
        expected = torch.eye(20, dtype=torch.float64, device=DEVICE).reshape(4, 5, 4, 5)
    else:
        expected = torch.autograd.functional.jacobian(lambda x: turned(x, codebook[ids]), x)
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.parametrize("rule", GRADIENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend, rule):
    x, codebook, ids = inputs((12,), 3, 4)
    slopes = some_slopes(x, ids)
    skip_unless_runs(quantize, backend, x, codebook, ids, rule)
    with use_backend(backend):
        torch.library.opcheck(quantize_backward.overload, (*slopes[:2], x, codebook, ids, rule))
        torch.library.opcheck(quantize_backward.overload, (None, slopes[1], x, codebook, ids, rule))
        torch.library.opcheck(quantize_codebook_gradient.overload, (slopes[2], x, codebook, ids))
        torch.library.opcheck(quantize.overload, (x.requires_grad_(), codebook.requires_grad_(), ids, rule))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("rule", GRADIENTS)
def test_compiles_without_graph_breaks(rule, dynamic):
    def loss(x, codebook, ids):
        values, commitment, distortion = quantize(x, codebook, ids, gradient=rule)
        return values.sin().sum() + distortion.mean() + 0.25 * commitment.mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 6):
        x, codebook, ids = inputs((rows,), 8, 5)
        leaves = x.requires_grad_(), codebook.requires_grad_()
        actual, expected = compiled(*leaves, ids), loss(*leaves, ids)
        torch.testing.assert_close(actual, expected)
        for a, e in zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(a, e)
