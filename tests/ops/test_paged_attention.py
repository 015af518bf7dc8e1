from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, assert_matches, backend_names, skip_unless_runs
from torch import Tensor

from illume_fast.ops import paged_attention, paged_prefill_attention, use_backend

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BACKENDS = backend_names(paged_attention)
HEADS = [  # query heads, key heads, head size
    pytest.param(4, 4, 32, id="own-keys"),
    pytest.param(7, 1, 64, id="one-key-head"),
    pytest.param(14, 2, 128, id="groups-of-7"),
    pytest.param(6, 3, 20, id="ragged-head"),
    pytest.param(40, 2, 8, id="groups-of-20"),
]


@dataclass
class Case:
    """Queries [B, Hq, D] and a cache whose unused places hold NaN."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    table: Tensor
    lengths: Tensor

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    def decode(self, rows=slice(None)):
        return paged_attention(
            self.q[rows], self.k_pages, self.v_pages, self.table[rows], self.lengths[rows], self.scale
        )

    def skip_unless_runs(self, backend):
        skip_unless_runs(
            paged_attention, backend, self.q, self.k_pages, self.v_pages, self.table, self.lengths, self.scale
        )

    def exact(self):
        out = []
        for q, table, length in zip(self.q.double(), self.table, self.lengths.tolist(), strict=True):
            k, v = (p[table.long().clamp_min(0)].flatten(0, 1)[:length].double() for p in (self.k_pages, self.v_pages))
            k, v = (x.repeat_interleave(q.shape[0] // x.shape[1], 1).transpose(0, 1) for x in (k, v))
            mixed = F.scaled_dot_product_attention(q[:, None], k, v, scale=self.scale)[:, 0]
            out.append(mixed if length else torch.zeros_like(q))
        return torch.stack(out) if out else self.q.double()


def make(
    query_heads=4, key_heads=2, size=32, lengths=(300, 1, 0, 129), page_size=16, dtype=torch.float32, cache=None, seed=0
):
    gen = torch.Generator().manual_seed(seed)
    max_pages = max((-(-n // page_size) for n in lengths), default=0) + 1
    count = len(lengths) * max_pages
    shape = (count, page_size, key_heads, size)
    k_pages, v_pages = (torch.full(shape, float("nan")) for _ in range(2))
    table = torch.randperm(count, generator=gen).view(len(lengths), max_pages)
    for row, length in enumerate(lengths):
        for pages in (k_pages, v_pages):
            place = torch.arange(length)
            values = torch.randn(length, key_heads, size, generator=gen)
            pages[table[row, place // page_size], place % page_size] = values
        table[row, -(-length // page_size) :] = -7  # no page at all
    q = torch.randn(len(lengths), query_heads, size, generator=gen)
    cache = cache or dtype
    return Case(
        q.to(DEVICE, dtype),
        k_pages.to(DEVICE, cache),
        v_pages.to(DEVICE, cache),
        table.int().to(DEVICE),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
    )


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("query_heads", "key_heads", "size"), HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_double(backend, dtype, query_heads, key_heads, size):
    case = make(query_heads, key_heads, size, dtype=dtype)
    case.skip_unless_runs(backend)
    with use_backend(backend):
        actual = case.decode()
    assert_matches(actual, case.exact(), "decode")
    assert (actual[2] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cache", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_and_cache_may_differ_in_dtype(backend, cache, dtype):
    case = make(dtype=dtype, cache=cache)
    case.skip_unless_runs(backend)
    with use_backend(backend):
        assert_matches(case.decode(), case.exact(), "decode")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    for query_heads, key_heads, size in (p.values for p in HEADS):
        case = make(query_heads, key_heads, size, dtype=dtype)
        with use_backend("cpu"):
            assert_matches(case.decode(), case.exact(), isa)


@given(
    lengths=st.lists(st.integers(0, 300), max_size=4),
    heads=st.integers(1, 3),
    group=st.integers(1, 9),
    size=st.integers(1, 70),
    page_size=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    wide=st.booleans(),
)
def test_any_shape(lengths, heads, group, size, page_size, dtype, wide):
    case = make(heads * group, heads, size, lengths, page_size, dtype)
    if wide:
        case = replace(case, lengths=case.lengths.long())
    assert_matches(case.decode(), case.exact(), "decode")
    rows, positions = ragged(case)
    q = case.q[rows]
    out = paged_prefill_attention(q, case.k_pages, case.v_pages, case.table, rows, positions, case.scale)
    single = replace(case, q=q, table=case.table[rows], lengths=positions + 1)
    assert_matches(out, single.exact(), "prefill")


def ragged(case, most=40, shuffled=False):
    """Rows and positions of the last tokens of every row."""
    rows, positions = [], []
    for row, length in enumerate(case.lengths.tolist()):
        for position in range(max(length - most, 0), length):
            rows.append(row)
            positions.append(position)
    rows, positions = (torch.tensor(x, dtype=torch.long, device=DEVICE) for x in (rows, positions))
    if shuffled:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).to(DEVICE)
        rows, positions = rows[order], positions[order]
    return rows, positions


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("shuffled", [False, True], ids=["in-order", "shuffled"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_prefill_matches_causal_attention(backend, shuffled, index):
    lengths = (50, 0, 200, 7)
    case = make(6, 2, 32, lengths)
    case.skip_unless_runs(backend)
    rows, positions = ragged(case, most=200, shuffled=shuffled)
    q = torch.randn(len(rows), 6, 32, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    with use_backend(backend):
        out = paged_prefill_attention(
            q, case.k_pages, case.v_pages, case.table, rows.to(index), positions.to(index), case.scale
        )
    for row, length in enumerate(lengths):
        order = positions[rows == row].argsort()
        own = q[rows == row][order].double().transpose(0, 1)
        k, v = (
            p[case.table[row].long().clamp_min(0)].flatten(0, 1)[:length].double().transpose(0, 1)
            for p in (case.k_pages, case.v_pages)
        )
        expected = F.scaled_dot_product_attention(
            own[None], k[None], v[None], is_causal=True, scale=case.scale, enable_gqa=True
        )[0].transpose(0, 1)
        assert_matches(out[rows == row][order], expected, f"row {row}")


@pytest.mark.parametrize(("query_heads", "key_heads", "size"), HEADS[1:4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_alone_in_any_batch_and_with_any_threads(isa, threads, dtype, query_heads, key_heads, size):
    case = make(query_heads, key_heads, size, (700, 3, 128, 0, 129, 257), dtype=dtype)
    with use_backend("cpu"):
        results = []
        for count in (1, 2, 5):
            threads(count)
            results.append(case.decode())
            alone = [case.decode(slice(row, row + 1)) for row in range(len(case.q))]
            results.append(torch.cat(alone))
            results.append(case.decode([4, 0, 5, 1, 2, 3])[[1, 3, 4, 5, 0, 2]])
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.parametrize(("query_heads", "key_heads", "size"), HEADS[1:4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prefill_has_the_bits_of_decoding(isa, threads, dtype, query_heads, key_heads, size):
    case = make(query_heads, key_heads, size, (260, 0, 7), dtype=dtype)
    for shuffled in (False, True):
        rows, positions = ragged(case, shuffled=shuffled)
        q = torch.randn(len(rows), query_heads, size, generator=torch.Generator().manual_seed(2)).to(dtype)
        single = replace(case, q=q, table=case.table[rows], lengths=positions + 1)
        with use_backend("cpu"):
            for count in (1, 4):
                threads(count)
                out = paged_prefill_attention(q, case.k_pages, case.v_pages, case.table, rows, positions, case.scale)
                assert torch.equal(out, single.decode())


def test_bits_do_not_depend_on_where_pages_lie():
    case = make(lengths=(200, 90))
    order = torch.randperm(len(case.k_pages), generator=torch.Generator().manual_seed(3))
    moved = torch.empty_like(order)
    moved[order] = torch.arange(len(order))
    table = torch.where(case.table >= 0, moved[case.table.clamp_min(0).long()].int(), case.table)
    other = replace(case, k_pages=case.k_pages[order], v_pages=case.v_pages[order], table=table)
    assert torch.equal(case.decode(), other.decode())


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_views_of_a_fused_projection(backend):
    case = make(6, 2, 32, dtype=torch.bfloat16)
    case.skip_unless_runs(backend)
    fused = torch.randn(len(case.q), 10, 32, generator=torch.Generator().manual_seed(4)).to(DEVICE, torch.bfloat16)
    wide = torch.stack((case.table, case.table), -1)
    with use_backend(backend):
        strided = replace(case, q=fused[:, :6], table=wide[..., 1], lengths=case.lengths.repeat_interleave(2)[::2])
        packed = replace(case, q=fused[:, :6].contiguous())
        assert torch.equal(strided.decode(), packed.decode())
        apart = replace(case, q=fused[:, :6].transpose(1, 2).contiguous().transpose(1, 2))
        assert torch.equal(apart.decode(), packed.decode())


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_and_bad_keys(backend):
    case = make(lengths=(200, 200, 200, 200))
    case.skip_unless_runs(backend)
    case.k_pages[case.table[0, 3], 5] *= 1e4  # one key takes all
    case.k_pages[case.table[1, 9], 0] = float("nan")
    case.v_pages[case.table[2, 9], 0] = float("inf")
    case.k_pages[case.table[3, 0], 0] = float("-inf")
    case.q[3] = case.q[3].abs()
    with use_backend(backend):
        out = case.decode()
    exact = case.exact()
    assert_matches(out[:1], exact[:1], "large")
    assert out[1].isnan().all()
    assert not out[2].isfinite().any()
    assert_matches(out[3:], exact[3:], "a key of weight 0")


def misplaced():
    """Arguments of paged_attention and of paged_prefill_attention, without the scale, of which one token is out of
    range, each with what is said of it."""
    case = make(lengths=(40, 17))
    tensors = case.q, case.k_pages, case.v_pages
    pages = len(case.k_pages)
    rows, positions = torch.tensor([1, 0], device=DEVICE), torch.tensor([16, 39], device=DEVICE)
    broken = case.table.clone()
    broken[1, 0] = pages

    def lengths(*values):
        return torch.tensor(values, device=DEVICE)

    decode = [
        ((case.table, lengths(40, -1)), r"seq_lens\[1\] is -1, not at least 0"),
        ((case.table, lengths(40, 65)), "token 1 stands at position 64 of row 1, which has 4 pages of 16 tokens"),
        ((case.table, lengths(40, 2**63 - 1)), "token 1 stands at position"),
        ((case.table, lengths(40, 33)), r"token 1 needs page -7 \(page_table\[1, 2\]\)"),
        ((broken, lengths(40, 17)), rf"token 1 needs page {pages} \(page_table\[1, 0\]\), not from 0 to {pages - 1}"),
    ]
    prefill = [
        ((case.table, lengths(1, 2), positions), "token 1 names row 2 of a page table with 2 rows"),
        ((case.table, lengths(-1, 0), positions), "token 0 names row -1"),
        ((case.table, rows, lengths(16, -1)), "token 1 stands at position -1 of row 0"),
        ((case.table, rows, lengths(2**63 - 1, 1)), "token 0 stands at position 9223372036854775807"),
        ((case.table, rows, lengths(32, 1)), r"token 0 needs page -7 \(page_table\[1, 2\]\)"),
        ((broken, rows, positions), rf"token 0 needs page {pages} \(page_table\[1, 0\]\)"),
    ]
    calls = [(paged_attention, decode), (paged_prefill_attention, prefill)]
    return [(op, (*tensors, *where), said) for op, cases in calls for where, said in cases]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_is_out_of_range_is_named(backend):
    for op, args, message in misplaced():
        with use_backend(backend), pytest.raises(RuntimeError, match=f"{op.__name__}: {message}"):
            op(*args, 1.0)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_gpu_gives_nan_to_what_is_out_of_range(backend):
    for op, args, message in misplaced():
        skip_unless_runs(op, backend, *args, 1.0)
        bad = 0 if "token 0" in message else 1
        with use_backend(backend):
            out = op(*args, 1.0)
        assert out[bad].isnan().all()
        assert out[1 - bad].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_name_both_values(backend):
    case = make()
    q, k, v, table, lengths = case.q, case.k_pages, case.v_pages, case.table, case.lengths
    bad = [
        ((q[0], k, v, table, lengths), r"q is torch.float32 \(4, 32\), not floating-point \[T, Hq, D\]"),
        ((q.long(), k, v, table, lengths), "q is torch.int64"),
        ((q[:, :3], k, v, table, lengths), r"k_pages is \(.*, 2, 32\), not .* divides the 3 heads of q"),
        ((q[..., :16], k, v, table, lengths), r"2 key heads of 16 elements, but k_pages is \(.*, 2, 32\)"),
        ((q, k, v[1:], table, lengths), r"k_pages is \(\d+, 16, 2, 32\) and v_pages \(\d+, 16, 2, 32\)"),
        ((q, k, v.half(), table, lengths), "k_pages is torch.float32 and v_pages torch.float16"),
        ((q, k, v, table.long(), lengths), "page_table is torch.int64"),
        ((q, k, v, table[:3], lengths), "4 queries, but page_table has 3 rows"),
        ((q, k, v, table, lengths[:3]), r"seq_lens is torch.int32 \(3,\), not int32 or int64 \[4\]"),
        ((q, k, v, table, lengths.float()), "seq_lens is torch.float32"),
    ]
    with use_backend(backend):
        for args, message in bad:
            with pytest.raises(RuntimeError, match=f"paged_attention: {message}"):
                paged_attention(*args, 1.0)
        with pytest.raises(RuntimeError, match=r"paged_prefill_attention: positions is torch.int32 \(3,\)"):
            paged_prefill_attention(q, k, v, table, lengths, lengths[:3], 1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    case = make()
    args = case.q, case.k_pages.nan_to_num(), case.v_pages.nan_to_num(), case.table
    rows, positions = ragged(case, most=1)
    skip_unless_runs(paged_attention, backend, *args, case.lengths, 1.0)
    with use_backend(backend):
        torch.library.opcheck(paged_attention.overload, (*args, case.lengths, 0.2))
        torch.library.opcheck(paged_prefill_attention.overload, (case.q[rows], *args[1:], rows, positions, 0.2))


def test_compiles_without_graph_breaks():
    compiled = torch.compile(lambda *args: paged_attention(*args) + 1, fullgraph=True, backend="aot_eager")
    for lengths in ((3, 40, 0), (17, 5)):
        case = make(lengths=lengths)
        args = case.q, case.k_pages, case.v_pages, case.table, case.lengths, case.scale
        torch.testing.assert_close(compiled(*args), case.decode() + 1)
