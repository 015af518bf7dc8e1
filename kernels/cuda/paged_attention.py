"""Attention over a paged cache on an NVIDIA GPU; contracts are in `illume_fast.ops.paged_attention`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import cache_arguments, declines_pages, packed_heads, packed_table
from illume_fast.kernels.cpu.rope import heads_arguments


def declines(q: Tensor, k_pages: Tensor, v_pages: Tensor, *rest: Tensor | float) -> str | None:
    reason = native.declines_cuda(q) or declines_pages(k_pages, v_pages)
    if reason is None and not native._C.cuda_paged_attention_takes(q.shape[2]):
        return f"no kernel for heads of {q.shape[2]} elements"
    return reason


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
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    q, page_table, lengths = packed_heads(q), packed_table(page_table), lengths.contiguous()
    if rows is not None:
        rows = rows.contiguous()
    tokens, query_heads, _ = q.shape
    parts = room_for_parts(q, k_pages, page_table)
    native.launch_cuda(
        "paged_attention",
        q,
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
        parts.data_ptr(),
    )
    return out


def room_for_parts(q: Tensor, k_pages: Tensor, page_table: Tensor) -> Tensor:
    """What the kernel needs to put together the parts of long rows."""
    tokens, query_heads, size = q.shape
    floats = native._C.cuda_paged_attention_parts(k_pages.shape[1], size, page_table.shape[1], query_heads, tokens)
    return torch.empty(floats, device=q.device)
