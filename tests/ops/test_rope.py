import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs

from illume_fast.ops import rope, use_backend

SHAPES = [  # leading, query heads, key heads, head size
    pytest.param((1,), 1, 1, 2, id="one-pair"),
    pytest.param((7,), 6, 2, 40, id="ragged-tail"),
    pytest.param((2, 5), 4, 4, 64, id="batched"),
    pytest.param((300,), 8, 2, 32, id="many-tokens"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(rope)


def inputs(leading, query_heads, key_heads, size, dtype, layout="packed", table=None):
    gen = torch.Generator().manual_seed(0)
    angles = torch.rand(*(leading if table is None else table), size // 2, generator=gen).to(DEVICE) * 6
    if layout == "packed":
        q, k = (torch.randn(*leading, heads, size, generator=gen) for heads in (query_heads, key_heads))
    else:  # views of one fused projection
        fused = torch.randn(*leading, query_heads + 2 * key_heads, size, generator=gen)
        q, k = fused[..., :query_heads, :], fused[..., query_heads : query_heads + key_heads, :]
    return q.to(DEVICE, dtype), k.to(DEVICE, dtype), angles.cos(), angles.sin()


def turned(x, cos, sin):
    """As complex numbers: (a + ib) e^{i angle}."""
    first, second = x.double().chunk(2, -1)
    product = torch.complex(first, second) * torch.complex(cos.double(), sin.double()).unsqueeze(-2)
    return torch.cat((product.real, product.imag), -1)


@pytest.mark.parametrize("layout", ["packed", "fused"])
@pytest.mark.parametrize(("leading", "query_heads", "key_heads", "size"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, leading, query_heads, key_heads, size, layout):
    q, k, cos, sin = inputs(leading, query_heads, key_heads, size, dtype, layout)
    skip_unless_runs(rope, backend, q, k, cos, sin)
    exact = [x.double().requires_grad_() for x in (q, k)]
    expected = [turned(x, cos, sin) for x in exact]
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    with use_backend(backend):
        eager = rope(q, k, cos, sin)
        actual = rope(*leaves, cos, sin)
        grads_out = [torch.randn_like(a) for a in actual]
        grads = torch.autograd.grad(actual, leaves, grads_out)
    expected_grads = torch.autograd.grad(expected, exact, [g.double() for g in grads_out])
    for a, b, e in zip(eager, actual, expected, strict=True):
        assert a.is_contiguous()
        assert_matches(a, e, "eager")
        assert_matches(b, e, "forward")
    for a, e in zip(grads, expected_grads, strict=True):
        assert_matches(a, e, "backward")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    q, k, cos, sin = (x.cpu() for x in inputs((9,), 3, 1, 34, dtype, "fused"))
    with use_backend("cpu"):
        for a, e in zip(rope(q, k, cos, sin), (turned(q, cos, sin), turned(k, cos, sin)), strict=True):
            assert_matches(a, e, isa)


@given(
    leading=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    shared=st.integers(0, 2),
    heads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    half=st.integers(0, 20),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["packed", "fused", "transposed"]),
)
def test_any_shape_and_stride(leading, shared, heads, half, dtype, layout):
    table = leading[min(shared, len(leading) - 1) :]  # one table for all batches
    q, k, cos, sin = inputs(leading, *heads, 2 * half, dtype, "fused" if layout == "fused" else "packed", table)
    if layout == "transposed":
        q, k = (x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k))
        cos, sin = (x.t().contiguous().t() if x.dim() == 2 else x for x in (cos, sin))
    for a, x in zip(rope(q, k, cos, sin), (q, k), strict=True):
        assert a.is_contiguous()
        assert_matches(a, turned(x, cos, sin), "forward")


def test_agrees_with_hugging_face():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q, k, cos, sin = inputs((2, 5), 4, 2, 64, torch.float32)
    whole = [torch.cat((x, x), -1) for x in (cos, sin)]
    expected = llama.apply_rotary_pos_emb(q, k, *whole, unsqueeze_dim=2)
    for a, e in zip(rope(q, k, cos, sin), expected, strict=True):
        assert_matches(a, e.double(), "forward")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_does_not_depend_on_its_batch(backend):
    q, k, cos, sin = inputs((300,), 8, 2, 32, torch.float32)
    skip_unless_runs(rope, backend, q, k, cos, sin)
    with use_backend(backend):
        whole = rope(q, k, cos, sin)
        alone = rope(*(x[9:10] for x in (q, k, cos, sin)))
    for w, a in zip(whole, alone, strict=True):
        assert torch.equal(w[9:10], a)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    q, k, cos, sin = inputs((3,), 2, 1, 10, torch.float32)
    skip_unless_runs(rope, backend, q, k, cos, sin)
    with use_backend(backend):
        torch.library.opcheck(rope.overload, (q.requires_grad_(), k.requires_grad_(), cos, sin))


def test_gradients_agree_with_finite_differences():
    q, k, cos, sin = (x.double() for x in inputs((2,), 2, 1, 4, torch.float32))
    with use_backend("reference"):
        turn = lambda q, k: rope(q, k, cos, sin)  # noqa: E731
        assert torch.autograd.gradcheck(turn, (q.requires_grad_(), k.requires_grad_()))
        assert torch.autograd.gradgradcheck(turn, (q, k))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    q, k, cos, sin = inputs((4,), 2, 1, 8, torch.float32)
    skip_unless_runs(rope, backend, q, k, cos, sin)
    bad = [
        ((q, k[:3], cos, sin), r"q is \(4, 2, 8\) and k \(3, 1, 8\)"),
        ((q[0], k[0], cos, sin), r"q is \(2, 8\) and k \(1, 8\)"),
        ((q, k, cos, sin[:3]), r"cos is \(4, 4\) and sin \(3, 4\)"),
        ((q, k, cos[:3], sin[:3]), r"q is \(4, 2, 8\) and cos \(3, 4\)"),
        ((q, k, cos[:, :3], sin[:, :3]), r"q is \(4, 2, 8\) and cos \(4, 3\)"),
        ((q, k.half(), cos, sin), "q is torch.float32 and k torch.float16"),
        ((q, k, cos.half(), sin.half()), "cos is torch.float16 and sin torch.float16"),
        ((q, k, cos.clone().requires_grad_(), sin), "cos or sin requires a gradient"),
    ]
    with use_backend(backend):
        for args, message in bad:
            with pytest.raises(RuntimeError, match=f"rope: {message}"):
                rope(*args)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic):
    compiled = torch.compile(
        lambda *args: torch.cat([x + 1 for x in rope(*args)], 1), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for tokens in (4, 6):
        q, k, cos, sin = inputs((tokens,), 2, 1, 8, torch.float32)
        args = q.requires_grad_(), k.requires_grad_()
        actual, expected = compiled(*args, cos, sin), torch.cat(rope(*args, cos, sin), 1) + 1
        torch.testing.assert_close(actual, expected)
        weights = torch.randn_like(actual)
        for a, e in zip(
            torch.autograd.grad((actual * weights).sum(), args),
            torch.autograd.grad((expected * weights).sum(), args),
            strict=True,
        ):
            torch.testing.assert_close(a, e)
