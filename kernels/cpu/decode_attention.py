"""Rotary positions, the append and attention in one call on the CPU; see `illume_fast.ops.decode_attention`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import cache_arguments, declines_pages, packed_heads, packed_table
from illume_fast.kernels.cpu.rope import heads_arguments


def declines(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_pages: Tensor, v_pages: Tensor, *rest: Tensor | float
) -> str | None:
    return native.declines_cpu(q) or declines_pages(k_pages, v_pages)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    positions: Tensor,
    scale: float,
    rows: Tensor | None,
) -> tuple[Tensor, int]:
    """The result, and -1 or the first token that is out of range; the result is unfinished then."""
    q, k, v, page_table = packed_heads(q), packed_heads(k), packed_heads(v), packed_table(page_table)
    cos, sin, positions = cos.contiguous(), sin.contiguous(), positions.contiguous()
    rows = None if rows is None else rows.contiguous()
    q_turned, k_turned, out = (
        torch.empty(q.shape, dtype=q.dtype),
        torch.empty(k.shape, dtype=k.dtype),
        torch.empty(q.shape, dtype=q.dtype),
    )
    bad = native._C.decode_attention(
        native.DTYPE_CODES[q.dtype],
        *heads_arguments(q),
        q.shape[1],
        *heads_arguments(k),
        *heads_arguments(v),
        cos.data_ptr(),
        sin.data_ptr(),
        *cache_arguments(k_pages, v_pages, page_table),
        0 if rows is None else rows.data_ptr(),
        rows is not None and rows.dtype is torch.int64,
        positions.data_ptr(),
        positions.dtype is torch.int64,
        scale,
        q_turned.data_ptr(),
        k_turned.data_ptr(),
        out.data_ptr(),
        len(q),
    )
    return out, bad
