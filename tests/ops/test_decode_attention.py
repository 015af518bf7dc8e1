import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import decode_attention, paged_append, paged_attention, rope, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(decode_attention)


def inputs(
    tokens=5, query_heads=4, heads=2, size=24, page_size=4, max_pages=3, dtype=torch.float32, cache=None, seed=0
):
    """Arguments with every row at its own position; places behind it hold NaN."""
    gen = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=gen)

    # heads of one fused projection, so that rows are strided
    q, k, v = randn(tokens, query_heads + 2 * heads, size).split([query_heads, heads, heads], 1)
    angles = randn(tokens, size // 2)
    pages = [randn(tokens * max_pages + 1, page_size, heads, size) for _ in range(2)]
    table = torch.randperm(tokens * max_pages + 1, generator=gen)[: tokens * max_pages].view(tokens, max_pages).int()
    positions = torch.randint(0, max_pages * page_size, (tokens,), generator=gen)
    for b, position in enumerate(positions.tolist()):
        for behind in range(position, max_pages * page_size):
            for half in pages:
                half[table[b, behind // page_size], behind % page_size] = float("nan")
    return (
        *(x.to(DEVICE, dtype) for x in (q, k, v)),
        *(x.to(DEVICE) for x in (angles.cos(), angles.sin())),
        *(x.to(DEVICE, cache or dtype) for x in pages),
        table.to(DEVICE),
        positions.to(DEVICE),
        size**-0.5,
    )


def copy_of(args):
    return [a.clone() if isinstance(a, torch.Tensor) else a for a in args]


def one_by_one(q, k, v, cos, sin, k_pages, v_pages, page_table, positions, scale):
    q, k = rope(q, k, cos, sin)
    paged_append(k, v, k_pages, v_pages, page_table, torch.arange(len(q), device=q.device), positions)
    return paged_attention(q, k_pages, v_pages, page_table, positions + 1, scale)


@pytest.mark.parametrize("cache", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_its_three_parts(backend, dtype, cache):
    args = inputs(dtype=dtype, cache=cache)
    skip_unless_runs(decode_attention, backend, *args)
    apart = copy_of(args)
    exact = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    with use_backend(backend):
        actual, expected = decode_attention(*args), one_by_one(*apart)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    for mine, theirs in zip(args[5:7], apart[5:7], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
    with use_backend("reference"):
        wide = one_by_one(*exact)
    assert_matches(actual, wide, "float64", tolerance=0.03 if torch.bfloat16 in (dtype, cache) else 4e-3)


def test_every_instruction_set(isa):
    for dtype in DTYPES:
        args = [a.cpu() if isinstance(a, torch.Tensor) else a for a in inputs(size=22, dtype=dtype)]
        apart = copy_of(args)
        with use_backend("cpu"):
            assert torch.equal(decode_attention(*args), one_by_one(*apart))


@given(
    tokens=st.integers(0, 6),
    heads=st.integers(1, 3),
    group=st.integers(0, 4),
    half=st.integers(0, 20),
    page_size=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    wide=st.booleans(),
)
def test_any_shape(tokens, heads, group, half, page_size, dtype, wide):
    args = list(inputs(tokens, group * heads, heads, 2 * half, page_size, dtype=dtype)) if half else None
    if args is None:
        args = list(inputs(tokens, group * heads, heads, 2, page_size, dtype=dtype))
        args[:7] = [*(x[..., :0] for x in args[:3]), *(x[:, :0] for x in args[3:5]), *(x[..., :0] for x in args[5:7])]
    if not wide:
        args[8] = args[8].int()
    for backend in backends_here(decode_attention):
        mine, apart = copy_of(args), copy_of(args)
        with use_backend(backend):
            torch.testing.assert_close(decode_attention(*mine), one_by_one(*apart), rtol=0, atol=0)


def test_rows_that_share_pages_see_each_other_at_once():
    """Several tokens of one sequence in one call, each in a row of its own: the later see the earlier."""
    args = list(inputs(tokens=3, max_pages=2))
    args[7] = args[7][:1].expand(3, -1)
    args[5:7] = [torch.zeros_like(x) for x in args[5:7]]
    args[8] = torch.arange(3, device=DEVICE)
    whole = decode_attention(*copy_of(args))
    one = copy_of(args)
    for b in range(3):
        part = [x[b : b + 1] for x in one[:5]] + one[5:7] + [one[7][b : b + 1], one[8][b : b + 1], one[9]]
        torch.testing.assert_close(decode_attention(*part)[0], whole[b])


def test_places_out_of_range_are_named():
    args = [a.cpu() if isinstance(a, torch.Tensor) else a for a in inputs()]
    for position, message in ((-1, "token 2 stands at position -1"), (12, "token 2 stands at position 12")):
        args[8][2] = position
        before = [x.clone() for x in args[5:7]]
        for backend in ("cpu", "reference"):
            with use_backend(backend), pytest.raises(RuntimeError, match=message):
                decode_attention(*args)
        for x, y in zip(args[5:7], before, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    args[8][2] = 0
    args[7][2, 0] = 99
    for backend in ("cpu", "reference"):
        with use_backend(backend), pytest.raises(RuntimeError, match=r"token 2 needs page 99 \(page_table\[2, 0\]\)"):
            decode_attention(*args)


@pytest.mark.parametrize(
    "change, message",
    [
        ({1: lambda k: k[:, :, :-2]}, r"q, k and v have shapes \(5, 4, 24\), \(5, 2, 22\) and \(5, 2, 24\)"),
        ({2: lambda v: v.half()}, "torch.float32, torch.float32 and torch.float16, not one"),
        ({0: lambda q: q[:, :3]}, "3 query heads are no multiple of 2 key heads"),
        ({3: lambda cos: cos[:, :5]}, r"cos is torch.float32 \(5, 5\)"),
        ({4: lambda sin: sin.double()}, "sin is torch.float64"),
        ({7: lambda table: table[:3]}, "5 tokens, but page_table has 3 rows"),
        ({8: lambda positions: positions[:3]}, r"positions is torch.int64 \(3,\)"),
    ],
)
def test_bad_arguments_name_both_values(change, message):
    args = list(inputs())
    for i, new in change.items():
        args[i] = new(args[i])
    with pytest.raises(RuntimeError, match="decode_attention: .*" + message):
        decode_attention(*args)


def test_registration_is_complete():
    for backend in backends_here(decode_attention):
        args = list(inputs())
        args[5:7] = [torch.zeros_like(x) for x in args[5:7]]
        with use_backend(backend):
            torch.library.opcheck(decode_attention.overload, args)


def test_compiles_without_graph_breaks():
    args = inputs()
    apart = copy_of(args)
    compiled = torch.compile(lambda *a: decode_attention(*a) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), one_by_one(*apart) + 1)
