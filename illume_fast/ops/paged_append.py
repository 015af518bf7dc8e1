"""Writing new keys and values into a paged cache, where `paged_attention` reads them."""

from torch import Tensor

from illume_fast.kernels.cpu import paged_append as cpu
from illume_fast.kernels.cuda import paged_append as cuda
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.paged_cache import (
    STORAGE_TYPES,
    check_devices,
    check_indices,
    check_pages,
    first_out_of_range,
    page_of,
    raise_out_of_range,
)


def paged_append_reference(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> None:
    """Write token t, `k[t]` and `v[t]`, to where `positions[t]` of row `rows[t]` of the page table lies; in place.

    `k` and `v` are [T, Hkv, D], strided views allowed; `k_pages` and `v_pages` [num_pages, page_size, Hkv, D], to whose
    dtype they are rounded; `page_table` is int32 [rows, max_pages] (the layout of flash-attn's
    `flash_attn_with_kvcache`); `rows` and `positions` are int32 or int64 [T]. Two tokens of one call should not go to
    one place: which of them stays there is not said.

    Raises:
        RuntimeError: naming a row, position or page that is out of range; nothing is written then. On a GPU, to
            save waiting for it, such a token is left out instead.
    """
    bad = first_out_of_range(k_pages, page_table, rows, positions, from_start=False)
    if bad is not None:
        raise_out_of_range("paged_append", k_pages, page_table, rows, positions, bad)
    page, slot = page_of(k_pages, page_table, rows, positions)
    k_pages[page, slot] = k.to(k_pages.dtype)
    v_pages[page, slot] = v.to(v_pages.dtype)


def _check(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> None:
    if k.dim() != 3 or v.shape != k.shape or v.dtype != k.dtype or k.dtype not in STORAGE_TYPES:
        raise RuntimeError(
            f"paged_append: k is {k.dtype} {tuple(k.shape)} and v {v.dtype} {tuple(v.shape)}, "
            "not both [T, Hkv, D] of one floating-point type"
        )
    check_pages("paged_append", k.shape[1], k.shape[2], k_pages, v_pages, page_table)
    check_indices("paged_append", k, rows=rows, positions=positions)
    check_devices("paged_append", k, v, k_pages, v_pages, page_table)


def _append_cpu(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor
) -> None:
    bad = cpu.append(k, v, k_pages, v_pages, page_table, rows, positions)
    if bad >= 0:
        raise_out_of_range("paged_append", k_pages, page_table, rows, positions, bad)


paged_append = declare(
    "paged_append",
    paged_append_reference,
    Backend("cpu", _append_cpu, cpu.declines),
    Backend("cuda", cuda.append, cuda.declines),
    check=_check,
    fake=lambda k, v, k_pages, v_pages, page_table, rows, positions: None,
    mutates=("k_pages", "v_pages"),
)
