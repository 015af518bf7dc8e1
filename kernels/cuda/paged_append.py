"""Writing into a paged cache on an NVIDIA GPU; contracts are in `illume_fast.ops.paged_append`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import cache_arguments, declines_pages, packed_heads, packed_table
from illume_fast.kernels.cpu.rope import heads_arguments


def declines(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> str | None:
    return native.declines_cuda(k) or declines_pages(k_pages, v_pages)


def append(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> None:
    """A token out of range is left out: to say so, the GPU would have to be waited for."""
    if k.numel() == 0:
        return
    k, v, page_table = packed_heads(k), packed_heads(v), packed_table(page_table)
    rows, positions = rows.contiguous(), positions.contiguous()
    native.launch_cuda(
        "paged_append",
        k,
        native.DTYPE_CODES[k.dtype],
        *heads_arguments(k),
        *heads_arguments(v),
        *cache_arguments(k_pages, v_pages, page_table),
        rows.data_ptr(),
        rows.dtype is torch.int64,
        positions.data_ptr(),
        positions.dtype is torch.int64,
        len(k),
    )
