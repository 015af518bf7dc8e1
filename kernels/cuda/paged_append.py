"""Writing into a paged cache on an NVIDIA GPU; contracts are in `illume_fast.ops.paged_append`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.paged_append import declines_pages, packed_heads, packed_table


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
    tokens, heads, size = k.shape
    num_pages, page_size = k_pages.shape[:2]
    with torch.cuda.device(k.device):
        code = native._C.cuda_paged_append(
            native.DTYPE_CODES[k.dtype],
            k.data_ptr(),
            k.stride(0),
            k.stride(1),
            v.data_ptr(),
            v.stride(0),
            v.stride(1),
            native.DTYPE_CODES[k_pages.dtype],
            k_pages.data_ptr(),
            v_pages.data_ptr(),
            num_pages,
            page_size,
            heads,
            size,
            page_table.data_ptr(),
            page_table.shape[0],
            page_table.stride(0),
            page_table.shape[1],
            rows.data_ptr(),
            rows.dtype is torch.int64,
            positions.data_ptr(),
            positions.dtype is torch.int64,
            tokens,
            torch.cuda.current_stream().cuda_stream,
        )
    native.raise_cuda_error("paged_append", code)
