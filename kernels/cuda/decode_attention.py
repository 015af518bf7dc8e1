"""A decoding step's attention on an NVIDIA GPU, in three launches; see `illume_fast.ops.decode_attention`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import cache_arguments, packed_heads, packed_table
from illume_fast.kernels.cpu.rope import heads_arguments
from illume_fast.kernels.cuda import paged_attention


def declines(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_pages: Tensor, v_pages: Tensor, *rest: Tensor | float
) -> str | None:
    return paged_attention.declines(q, k_pages, v_pages)


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
) -> Tensor:
    """A token out of range is not written and gets NaN: to say so, the GPU would have to be waited for."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    q, k, v, page_table = packed_heads(q), packed_heads(k), packed_heads(v), packed_table(page_table)
    cos, sin, positions = cos.contiguous(), sin.contiguous(), positions.contiguous()
    rows = None if rows is None else rows.contiguous()
    tokens, query_heads, _ = q.shape
    q_turned, k_turned = torch.empty_like(out), torch.empty(k.shape, dtype=k.dtype, device=k.device)
    parts = paged_attention.room_for_parts(q, k_pages, page_table)
    native.launch_cuda(
        "decode_attention",
        q,
        native.DTYPE_CODES[q.dtype],
        *heads_arguments(q),
        query_heads,
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
        tokens,
        parts.data_ptr(),
    )
    return out
