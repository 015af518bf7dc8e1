import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, skip_unless_runs

from illume_fast.ops import paged_append, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(paged_append)


def inputs(
    tokens=9,
    heads=2,
    size=24,
    page_size=4,
    dtype=torch.float32,
    cache=torch.float32,
    index=torch.int32,
    layout="packed",
    seed=0,
):
    """Tokens on distinct places of a cache with more pages than are used."""
    gen = torch.Generator().manual_seed(seed)
    rows, max_pages = 3, tokens // page_size + 1
    shape = (rows * max_pages + 2, page_size, heads, size)
    pages = [torch.randn(shape, generator=gen).to(DEVICE, cache) for _ in range(2)]
    table = torch.randperm(shape[0], generator=gen)[: rows * max_pages].view(rows, max_pages).int().to(DEVICE)
    places = torch.randperm(rows * max_pages * page_size, generator=gen)[:tokens].to(DEVICE, index)
    if layout == "packed":
        k, v = (torch.randn(tokens, heads, size, generator=gen) for _ in range(2))
    else:
        k, v = torch.randn(tokens, 3 * heads, size, generator=gen)[:, heads:].chunk(2, 1)
    if layout == "apart":
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    width = max_pages * page_size
    return k.to(DEVICE, dtype), v.to(DEVICE, dtype), *pages, table, places // width, places % width


def expected_pages(k, v, k_pages, v_pages, table, rows, positions):
    k_pages, v_pages = k_pages.clone(), v_pages.clone()
    for t, (row, position) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
        page, slot = int(table[row, position // k_pages.shape[1]]), position % k_pages.shape[1]
        k_pages[page, slot] = k[t].to(k_pages.dtype)
        v_pages[page, slot] = v[t].to(v_pages.dtype)
    return k_pages, v_pages


def assert_appends(args):
    expected = expected_pages(*args)
    assert paged_append(*args) is None
    for actual, wanted in zip(args[2:4], expected, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("cache", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_token_goes_to_its_place_and_nowhere_else(backend, dtype, cache):
    args = inputs(dtype=dtype, cache=cache)
    skip_unless_runs(paged_append, backend, *args)
    with use_backend(backend):
        assert_appends(args)


def test_every_instruction_set(isa):
    for dtype in DTYPES:
        for cache in DTYPES:
            args = [x.cpu() for x in inputs(size=21, dtype=dtype, cache=cache)]
            with use_backend("cpu"):
                assert_appends(args)


@given(
    tokens=st.integers(0, 20),
    heads=st.integers(0, 3),
    size=st.integers(0, 40),
    page_size=st.integers(1, 7),
    index=st.sampled_from([torch.int32, torch.int64]),
    layout=st.sampled_from(["packed", "fused", "apart"]),
    seed=st.integers(0, 9),
)
def test_any_shape_and_stride(tokens, heads, size, page_size, index, layout, seed):
    assert_appends(inputs(tokens, heads, size, page_size, index=index, layout=layout, seed=seed))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_tables_and_indices(backend):
    *tensors, table, rows, positions = inputs()
    wide = torch.stack((table, torch.full_like(table, -1)), -1)
    indices = torch.stack((rows, positions), 1)
    skip_unless_runs(paged_append, backend, *tensors, table, rows, positions)
    with use_backend(backend):
        assert_appends((*tensors, wide[..., 0], indices[:, 0], indices[:, 1]))


def test_many_tokens_are_shared_by_threads():
    args = inputs(tokens=700, heads=5, size=64, page_size=16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_appends(args)
    finally:
        torch.set_num_threads(threads)


def test_of_two_tokens_with_one_place_the_cpu_keeps_the_later():
    k, v, k_pages, v_pages, table, rows, positions = (x.cpu() for x in inputs(tokens=200))
    args = (k, v, k_pages, v_pages, table, rows, torch.zeros_like(positions))
    with use_backend("cpu"):
        assert_appends(args)


def misplaced():
    """(arguments, message): token 4 has a row, a position or a page that does not exist."""
    *tensors, table, rows, positions = inputs()
    broken = table.clone()
    broken[1, 2] = 99
    negative = table.clone()
    negative[1, 2] = -1
    rows[4], positions[4] = 1, 8

    def at(index, value):
        index = index.clone()
        index[4] = value
        return index

    where = [
        ((table, at(rows, 3), positions), "token 4 names row 3 of a page table with 3 rows"),
        ((table, at(rows, -1), positions), "token 4 names row -1 of a page table with 3 rows"),
        ((table, rows, at(positions, 12)), "token 4 stands at position 12 of row 1, which has 3 pages of 4 tokens"),
        ((table, rows, at(positions, -1)), "token 4 stands at position -1 of row 1"),
        ((table, rows, at(positions.long(), 2**63 - 1)), f"token 4 stands at position {2**63 - 1} of row 1"),
        ((broken, rows, positions), r"needs page 99 \(page_table\[1, 2\]\), not from 0 to 10"),
        ((negative, rows, positions), r"needs page -1 \(page_table\[1, 2\]\), not from 0 to 10"),
    ]
    return [((*tensors, *places), message) for places, message in where]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cuda"])
def test_what_is_out_of_range_is_named_and_nothing_is_written(backend):
    for args, message in misplaced():
        before = [pages.clone() for pages in args[2:4]]
        with use_backend(backend), pytest.raises(RuntimeError, match=f"paged_append: .*{message}"):
            paged_append(*args)
        assert all(torch.equal(a, b) for a, b in zip(args[2:4], before, strict=True))


def test_a_gpu_leaves_out_what_is_out_of_range():
    for args, _ in misplaced():
        skip_unless_runs(paged_append, "cuda", *args)
        others = torch.arange(9, device=DEVICE) != 4
        k, v, *pages, table, rows, positions = args
        kept = (k[others], v[others], *pages, table, rows[others], positions[others])
        expected = expected_pages(*kept)
        with use_backend("cuda"):
            paged_append(*args)
        assert all(torch.equal(a, b) for a, b in zip(pages, expected, strict=True))


def test_entries_that_no_token_needs_may_be_anything():
    *tensors, table, rows, positions = inputs()
    table[1] = -1
    rows[:] = 0
    positions[:] = torch.arange(9)
    assert_appends((*tensors, table, rows, positions))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    k, v, k_pages, v_pages, table, rows, positions = inputs()
    bad = [
        (
            (k, v[:3], k_pages, v_pages, table, rows, positions),
            r"k is torch.float32 \(9, 2, 24\) .* \(3, 2, 24\)",
        ),
        ((k, v.half(), k_pages, v_pages, table, rows, positions), "k is torch.float32 .* and v torch.float16"),
        ((k.long(), v.long(), k_pages, v_pages, table, rows, positions), "k is torch.int64"),
        ((k, v, k_pages[:2], v_pages, table, rows, positions), r"k_pages is \(2, 4, 2, 24\) and v_pages \(11, 4, 2"),
        ((k, v, k_pages.half(), v_pages, table, rows, positions), "k_pages is torch.float16 and v_pages torch.float32"),
        ((k[:, :1], v[:, :1], k_pages, v_pages, table, rows, positions), r"1 key heads of 24 .* \(11, 4, 2, 24\)"),
        ((k, v, k_pages, v_pages, table.long(), rows, positions), r"page_table is torch.int64 \(3, 3\)"),
        ((k, v, k_pages, v_pages, table[0], rows, positions), r"page_table is torch.int32 \(3,\)"),
        ((k, v, k_pages, v_pages, table, rows[:5], positions), r"rows is torch.int32 \(5,\), not .* \[9\]"),
        ((k, v, k_pages, v_pages, table, rows, positions.float()), "positions is torch.float32"),
    ]
    with use_backend(backend):
        for args, message in bad:
            with pytest.raises(RuntimeError, match=f"paged_append: {message}"):
                paged_append(*args)


def test_a_cache_in_pieces_is_declined_by_the_cpu_kernel():
    args = list(inputs())
    args[2] = args[2].transpose(0, 1).contiguous().transpose(0, 1)
    with use_backend("cpu"), pytest.raises(RuntimeError, match="backend 'cpu' cannot run: needs contiguous k_pages"):
        paged_append(*(x.cpu() for x in args[:2]), args[2].cpu(), *(x.cpu() for x in args[3:]))
    assert_appends(args)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = inputs()
    skip_unless_runs(paged_append, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(paged_append.overload, args)


def test_mutation_is_seen_by_autograd():
    args = inputs()
    before = args[2]._version, args[3]._version
    paged_append(*args)
    assert (args[2]._version, args[3]._version) == (before[0] + 1, before[1] + 1)
    with torch.inference_mode():
        paged_append(*(x.clone() for x in args))


def test_compiles_without_graph_breaks():
    def step(*args):
        paged_append(*args)
        return args[2] + args[3]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for tokens in (9, 5):
        args = inputs(tokens)
        expected = expected_pages(*args)
        actual = compiled(*args)
        assert torch.equal(actual, expected[0] + expected[1])
        assert torch.equal(args[2], expected[0])
