"""Attention over a paged cache in Triton; contracts are in `illume_fast.ops.paged_attention`.

A program takes a stretch of a token's row for all query heads of a key head; a second kernel joins the stretches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from illume_fast.kernels.triton import dot_widens

_STRETCH = 512  # keys of a program
_KEYS = 32  # of them at once
_FEWEST = 16  # rows and columns of a factor of tl.dot


def attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    rows: Tensor | None,
    lengths: Tensor,
    extra: int,
    scale: float,
) -> Tensor:
    """Token t sees the first lengths[t] + extra tokens of row rows[t], or of row t without `rows`; a token that is out
    of range gets NaN, since to raise, the GPU would have to be waited for."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel() == 0:
        return out
    tokens, heads, size = q.shape
    pages, page_size, key_heads, _ = k_pages.shape
    q = q if q.stride(2) == 1 else q.contiguous()
    k_pages, v_pages, page_table = k_pages.contiguous(), v_pages.contiguous(), page_table.contiguous()
    most = page_table.shape[1] * page_size
    stretches = max(1, triton.cdiv(most, _STRETCH))
    wide, group = max(_FEWEST, triton.next_power_of_2(size)), heads // key_heads
    parts = torch.empty(tokens, heads, stretches, wide + 2, device=q.device)
    attend_kernel[(stretches, key_heads, tokens)](
        q, q.stride(0), q.stride(1), k_pages, v_pages, page_table, rows, lengths, parts,
        extra, scale, size, pages, page_size, page_table.shape[0], page_table.shape[1], key_heads, stretches,
        GROUP=group, GROUPS=max(_FEWEST, triton.next_power_of_2(group)), WIDE=wide, KEYS=_KEYS, STRETCH=_STRETCH,
        HALVES=q.dtype == k_pages.dtype != torch.float32 and not dot_widens(),
    )  # fmt: skip
    join_kernel[(heads, tokens)](
        parts, lengths, out, extra, size, most, stretches, STRETCH=_STRETCH, WIDE=wide,
    )  # fmt: skip
    return out


@triton.jit
def attend_kernel(
    q, token_stride, head_stride, k_pages, v_pages, page_table, rows, lengths, parts,
    extra, scale, size, pages, page_size, table_rows, max_pages, key_heads, stretches,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr, KEYS: tl.constexpr, STRETCH: tl.constexpr,
    HALVES: tl.constexpr,
):  # fmt: skip
    """Writes (largest score, sum of weights, weighted values) of a stretch for every query head of a key head.

    `HALVES`: queries and cache have one 16-bit type, in which they are multiplied; weights are rounded to it too.
    """
    stretch, head = tl.program_id(0), tl.program_id(1)
    token = tl.program_id(2).to(tl.int64)
    row = token if rows is None else tl.load(rows + token).to(tl.int64)
    length = tl.load(lengths + token).to(tl.int64) + extra
    good = (row >= 0) & (row < table_rows) & (length >= extra) & (length <= max_pages * page_size)
    length = tl.where(good, length, 0)
    row = tl.where(good, row, 0)
    g, d, j = tl.arange(0, GROUPS), tl.arange(0, WIDE), tl.arange(0, KEYS)
    own = (g < GROUP)[:, None] & (d < size)[None, :]
    at = token * token_stride + (head * GROUP + g).to(tl.int64)[:, None] * head_stride + d[None, :]
    queries = tl.load(q + at, mask=own, other=0.0)
    if HALVES == 0:
        queries = queries.to(tl.float32)
    largest = tl.full([GROUPS], float("-inf"), tl.float32)
    weight = tl.zeros([GROUPS], tl.float32)
    values = tl.zeros([GROUPS, WIDE], tl.float32)
    first = stretch * STRETCH
    for start in range(first, tl.minimum(first + STRETCH, length).to(tl.int32), KEYS):
        position = start + j
        seen = position < length
        page = tl.load(page_table + row * max_pages + position // page_size, mask=seen, other=0).to(tl.int64)
        real = (page >= 0) & (page < pages)
        good &= tl.min((real | (seen == 0)).to(tl.int32), 0) == 1
        place = ((tl.where(real, page, 0) * page_size + position % page_size) * key_heads + head) * size
        inside = seen[:, None] & (d < size)[None, :]
        k = tl.load(k_pages + place[:, None] + d[None, :], mask=inside, other=0.0)
        if HALVES == 0:
            k = k.to(tl.float32)
        score = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        more = tl.maximum(largest, tl.max(score, 1))
        base = tl.where(more == float("-inf"), 0.0, more)
        shrunk = tl.exp(largest - base)
        shares = tl.exp(score - base[:, None])
        v = tl.load(v_pages + place[:, None] + d[None, :], mask=inside, other=0.0)
        if HALVES:
            near = shares.to(v.dtype)
            shares = near.to(tl.float32)
        else:
            near = shares
            v = v.to(tl.float32)
        weight = weight * shrunk + tl.sum(shares, 1)
        values = tl.dot(near, v, values * shrunk[:, None], input_precision="ieee")
        largest = more
    values = tl.where(good, values, float("nan"))
    to = parts + ((token * key_heads * GROUP + head * GROUP + g).to(tl.int64) * stretches + stretch) * (WIDE + 2)
    tl.store(to, largest, mask=g < GROUP)
    tl.store(to + 1, tl.where(good, weight, float("nan")), mask=g < GROUP)
    tl.store(to[:, None] + 2 + d[None, :], values, mask=own)


@triton.jit
def join_kernel(parts, lengths, out, extra, size, most, stretches, STRETCH: tl.constexpr, WIDE: tl.constexpr):
    """Program (head, token) puts the stretches of a row together."""
    head, token = tl.program_id(0), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + token).to(tl.int64) + extra
    good = (length >= extra) & (length <= most)
    count = tl.where(good, tl.maximum((length + STRETCH - 1) // STRETCH, 1), 1).to(tl.int32)
    d = tl.arange(0, WIDE)
    own = parts + (token * tl.num_programs(0) + head) * stretches * (WIDE + 2)
    largest = tl.full([], float("-inf"), tl.float32)
    for i in range(count):
        largest = tl.maximum(largest, tl.load(own + i * (WIDE + 2)))
    base = tl.where(largest == float("-inf"), 0.0, largest)
    weight = tl.zeros([], tl.float32)
    value = tl.zeros([WIDE], tl.float32)
    for i in range(count):
        part = own + i * (WIDE + 2)
        share = tl.exp(tl.load(part) - base)
        weight += tl.load(part + 1) * share
        value += tl.load(part + 2 + d, mask=d < size, other=0.0) * share
    result = tl.where(good & (length == 0), 0.0, value / weight)
    tl.store(out + (token * tl.num_programs(0) + head) * size + d, result, mask=d < size)
