"""Writing into a paged cache on the CPU; contracts are in `illume_fast.ops.paged_append`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rope import heads_arguments


def declines(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> str | None:
    return native.declines_cpu(k) or declines_pages(k_pages, v_pages)


def declines_pages(k_pages: Tensor, v_pages: Tensor) -> str | None:
    """Why the kernels cannot use this cache; None when they can."""
    if k_pages.dtype not in native.DTYPE_CODES:
        return f"no kernel for a cache of {k_pages.dtype}"
    if not (k_pages.is_contiguous() and v_pages.is_contiguous()):
        return "needs contiguous k_pages and v_pages"
    return None


def packed_heads(x: Tensor) -> Tensor:
    """x [T, heads, D], or a copy if a head's elements are apart."""
    return x if x.stride(2) == 1 else x.contiguous()


def packed_table(page_table: Tensor) -> Tensor:
    """page_table, or a copy if a row's entries are apart."""
    return page_table if page_table.stride(1) == 1 else page_table.contiguous()


def cache_arguments(k_pages: Tensor, v_pages: Tensor, page_table: Tensor) -> tuple[int, ...]:
    """What every kernel is told of a cache and its packed table, in the order of `PagedCache` in csrc/include."""
    return (
        native.DTYPE_CODES[k_pages.dtype],
        k_pages.data_ptr(),
        v_pages.data_ptr(),
        *k_pages.shape,
        page_table.data_ptr(),
        page_table.shape[0],
        page_table.stride(0),
        page_table.shape[1],
    )


def append(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> int:
    """-1, or the first token that is out of range; nothing is written then."""
    k, v, page_table = packed_heads(k), packed_heads(v), packed_table(page_table)
    rows, positions = rows.contiguous(), positions.contiguous()
    return native._C.paged_append(
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
