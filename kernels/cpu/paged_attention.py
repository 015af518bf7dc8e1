"""Attention over a paged cache on the CPU; contracts are in `illume_fast.ops.paged_attention`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import cache_arguments, declines_pages, packed_heads, packed_table
from illume_fast.kernels.cpu.rope import heads_arguments


def declines(q: Tensor, k_pages: Tensor, v_pages: Tensor, *rest: Tensor | float) -> str | None:
    return native.declines_cpu(q) or declines_pages(k_pages, v_pages)


def attend(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    rows: Tensor | None,
    lengths: Tensor,
    extra: int,
    scale: float,
) -> tuple[Tensor, int]:
    """The result, and -1 or the first token that is out of range; the result is unfinished then.

    Token t sees the first lengths[t] + extra tokens of row rows[t], or of row t without `rows`.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, page_table, lengths = packed_heads(q), packed_table(page_table), lengths.contiguous()
    if rows is not None:
        rows = rows.contiguous()
    tokens, query_heads, _ = q.shape
    bad = native._C.paged_attention(
        native.DTYPE_CODES[q.dtype],
        *heads_arguments(q),
        query_heads,
        *cache_arguments(k_pages, v_pages, page_table),
        0 if rows is None else rows.data_ptr(),
        rows is not None and rows.dtype is torch.int64,
        lengths.data_ptr(),
        lengths.dtype is torch.int64,
        extra,
        scale,
        out.data_ptr(),
        tokens,
    )
    return out, bad
