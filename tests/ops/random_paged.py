"""Random calls of the paged cache: writing into it, and attention over it."""

from contextlib import nullcontext

import pytest
import torch
from random_inputs import DTYPES, Random
from random_tolerance import EPS, TINY, assert_same, assert_within, exact
from support import DEVICE

from illume_fast.ops import decode_attention, paged_append, paged_attention, paged_prefill_attention, rope


def check_paged_append(r: Random) -> None:
    dtype, cached, index = r.choice(DTYPES), r.choice(DTYPES), r.choice((torch.int32, torch.int64))
    tokens, heads, size, page_size = r.size(30, huge=3000), r.number(0, 4), r.size(130), r.choice((1, 3, 16))
    rows = r.number(1, 5)
    max_pages = tokens // (rows * page_size) + r.number(1, 4)
    pages = rows * max_pages + r.number(0, 3)
    table = torch.randperm(pages, generator=r.gen)[: rows * max_pages].view(rows, max_pages).int()
    places = torch.randperm(rows * max_pages * page_size, generator=r.gen)[:tokens]
    row, position = places // (max_pages * page_size), places % (max_pages * page_size)
    k, v = (r.values(tokens, heads, size, dtype=dtype) for _ in range(2))
    before = [torch.randn(pages, page_size, heads, size, generator=r.gen).to(DEVICE, cached) for _ in range(2)]
    after = [t.clone() for t in before]
    broken = tokens > 0 and r.chance(0.1) and DEVICE == "cpu"  # a GPU says nothing, so as not to wait
    if broken:
        token = r.number(0, tokens)
        kind = r.number(0, 3)
        if kind == 0:
            row[token] = r.choice((-1, rows, 2**31 - 1))
        elif kind == 1:
            position[token] = r.choice((-1, max_pages * page_size, 2**31 - 1))
        else:
            table[row[token], position[token] // page_size] = r.choice((-1, pages, 2**31 - 1))
    arguments = (r.laid_out(table), r.laid_out(row.to(index)), r.laid_out(position.to(index)))
    with pytest.raises(RuntimeError, match="paged_append: token") if broken else nullcontext():
        paged_append(k, v, *after, *arguments)
    for new, old, tokens_of in zip(after, before, (k, v), strict=True):
        if not broken:
            old[table[row, position // page_size].long(), position % page_size] = tokens_of.to(cached)
        assert_same(new, old)


def check_paged_attention(r: Random) -> None:
    compare_attention(r, prefill=False)


def check_paged_prefill_attention(r: Random) -> None:
    compare_attention(r, prefill=True)


def compare_attention(r: Random, *, prefill: bool) -> None:
    """Decoding, a query for each row; or ragged queries, several of a row, each of which sees what is before it."""
    dtype, cached, index = r.choice(DTYPES), r.choice(DTYPES), r.choice((torch.int32, torch.int64))
    rows, key_heads, size, page_size = r.size(6), r.number(1, 4), max(1, r.size(130)), r.choice((1, 3, 16))
    group, longest = r.number(1, 9), r.size(huge=2500) + 1
    max_pages = -(-longest // page_size)
    used = rows * max_pages
    table = torch.randperm(max(1, used), generator=r.gen)[:used].view(rows, max_pages).int()
    queries = r.size(24) if prefill and rows else rows
    row = r.integers(0, rows, queries) if prefill and rows else torch.arange(rows)
    lengths = r.integers(0, longest + 1, queries).clamp_min(1 if prefill else 0)
    k, v = (torch.randn(max(1, used), page_size, key_heads, size, generator=r.gen).to(DEVICE, cached) for _ in range(2))
    # what nobody may read is no number
    reach = torch.zeros(rows, dtype=torch.int64).scatter_reduce(0, row, lengths, "amax")
    unread = (torch.arange(max_pages * page_size) >= reach[:, None]).view(rows, max_pages, page_size)
    for pages in (k, v):
        pages[table.long()] = pages[table.long()].masked_fill(unread[..., None, None].to(DEVICE), torch.nan)
    q = torch.randn(queries, key_heads * group, size, generator=r.gen).to(dtype)
    if queries and r.chance(0.1):
        q[r.number(0, queries)] = torch.nan
    q = r.laid_out(q)
    scale = size**-0.5 * r.choice((1.0, 0.1, 8.0))
    cache = (k, v, r.laid_out(table))
    if prefill:
        actual = paged_prefill_attention(
            q, *cache, r.laid_out(row.to(index)), r.laid_out((lengths - 1).to(index)), scale
        )
    else:
        actual = paged_attention(q, *cache, r.laid_out(lengths.to(index)), scale)
    rounded = dtype == cached == torch.bfloat16
    for i, length in enumerate(lengths.tolist()):
        if length == 0:
            assert not actual[i].any()
            continue
        keys, values = (
            exact(p[table[row[i]].long()].flatten(0, 1)[:length]).repeat_interleave(group, 1) for p in (k, v)
        )
        scores = torch.einsum("hd,lhd->hl", exact(q[i]), keys) * scale
        expected = torch.einsum("hl,lhd->hd", scores.softmax(1), values)
        slack = (2 * EPS[dtype] + (2**-8 if rounded else 2e-5)) * values.abs().amax() + TINY[dtype]
        assert_within(actual[i], expected, slack)


def check_decode_attention(r: Random) -> None:
    """The bits of the ops it is made of, whose numbers the other checks look at; and the same cache."""
    dtype, cached, index = r.choice(DTYPES), r.choice(DTYPES), r.choice((torch.int32, torch.int64))
    rows, key_heads, size, page_size = r.size(6), r.number(1, 4), 2 * max(1, r.size(64)), r.choice((1, 3, 16))
    max_pages = -(-(r.size(huge=1500) + 1) // page_size)
    pages = max(1, rows * max_pages)
    table = torch.randperm(pages, generator=r.gen)[: rows * max_pages].view(rows, max_pages).int()
    table, positions = r.laid_out(table), r.laid_out(r.integers(0, max_pages * page_size, rows).to(index))
    q, k, v = (r.values(rows, heads, size, dtype=dtype) for heads in (key_heads * r.number(1, 9), key_heads, key_heads))
    angles = torch.rand(rows, size // 2, generator=r.gen) * 100
    cos, sin = (r.laid_out(t) for t in (angles.cos(), angles.sin()))
    once, apart = (
        [torch.randn(pages, page_size, key_heads, size, generator=r.gen).to(DEVICE, cached) for _ in range(2)]
        for _ in range(2)
    )
    for a, b in zip(once, apart, strict=True):
        b.copy_(a)
    scale = size**-0.5
    turned, turned_k = rope(q, k, cos, sin)
    if r.chance(0.5):
        actual = decode_attention(q, k, v, cos, sin, *once, table, positions, scale)
        paged_append(turned_k, v, *apart, table, torch.arange(rows, device=DEVICE), positions)
        expected = paged_attention(turned, *apart, table, positions + 1, scale)
    else:
        # several tokens may belong to one row; of those with one place the last stays
        own = r.laid_out(r.integers(0, max(rows, 1), rows).to(index))
        actual = decode_attention(q, k, v, cos, sin, *once, table, positions, scale, own)
        paged_append(turned_k, v, *apart, table, own, positions)
        expected = paged_prefill_attention(turned, *apart, table, own, positions, scale)
    assert_same(actual, expected)
    for a, b in zip(once, apart, strict=True):
        assert_same(a, b)
