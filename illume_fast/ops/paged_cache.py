"""What the paged ops share: their checks, and finding where in the cache a token lies."""

from typing import NoReturn

import torch
from torch import Tensor

INDEX_TYPES = (torch.int32, torch.int64)
STORAGE_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def first_out_of_range(
    pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, *, from_start: bool
) -> int | None:
    """The first token whose row, position or page is out of range, or None; `from_start` asks for all earlier pages."""
    size, max_pages = pages.shape[1], page_table.shape[1]
    bad = (rows < 0) | (rows >= page_table.shape[0]) | (positions < 0) | (positions >= max_pages * size)
    if not bad.any():
        index = torch.arange(max_pages, device=rows.device)
        last = (positions // size)[:, None]
        needed = index <= last if from_start else index == last
        table = page_table[rows.long()]
        bad = (needed & ((table < 0) | (table >= pages.shape[0]))).any(1)
    return int(bad.nonzero()[0]) if bad.any() else None


def raise_out_of_range(
    op: str, pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, token: int
) -> NoReturn:
    """Raise the RuntimeError that says what is wrong with where `token` reads or writes."""
    row, position, size = int(rows[token]), int(positions[token]), pages.shape[1]
    if not 0 <= row < page_table.shape[0]:
        raise RuntimeError(f"{op}: token {token} names row {row} of a page table with {page_table.shape[0]} rows")
    if not 0 <= position < page_table.shape[1] * size:
        raise RuntimeError(
            f"{op}: token {token} stands at position {position} of row {row}, which has {page_table.shape[1]} pages of "
            f"{size} tokens"
        )
    wrong = {i: page for i, page in enumerate(page_table[row].tolist()) if not 0 <= page < pages.shape[0]}
    index = position // size if position // size in wrong else min(wrong)
    raise RuntimeError(
        f"{op}: token {token} needs page {wrong[index]} (page_table[{row}, {index}]), "
        f"not from 0 to {pages.shape[0] - 1}"
    )


def page_of(pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The page and the slot in it of each token; everything must be in range."""
    positions = positions.long()
    return page_table[rows.long(), positions // pages.shape[1]].long(), positions % pages.shape[1]


def check_pages(op: str, heads: int, size: int, k_pages: Tensor, v_pages: Tensor, page_table: Tensor) -> None:
    """What all paged ops ask of a cache: both halves alike, of `heads` heads of `size`, and a table of its pages."""
    shape = k_pages.shape
    if len(shape) != 4 or v_pages.shape != shape or shape[1] == 0:
        raise RuntimeError(
            f"{op}: k_pages is {tuple(shape)} and v_pages {tuple(v_pages.shape)}, "
            "not both [num_pages, page_size, Hkv, D] with page_size at least 1"
        )
    if shape[2] != heads or shape[3] != size:
        raise RuntimeError(f"{op}: {heads} key heads of {size} elements, but k_pages is {tuple(shape)}")
    if k_pages.dtype not in STORAGE_TYPES or v_pages.dtype != k_pages.dtype:
        raise RuntimeError(f"{op}: k_pages is {k_pages.dtype} and v_pages {v_pages.dtype}, not one floating-point type")
    if page_table.dim() != 2 or page_table.dtype != torch.int32:
        raise RuntimeError(
            f"{op}: page_table is {page_table.dtype} {tuple(page_table.shape)}, not int32 [rows, max_pages]"
        )


def check_indices(op: str, tokens: Tensor, **indices: Tensor) -> None:
    """Each of `indices` holds one int32 or int64 for each token, on the tokens' device."""
    for name, index in indices.items():
        if index.dim() != 1 or index.shape[0] != tokens.shape[0] or index.dtype not in INDEX_TYPES:
            raise RuntimeError(
                f"{op}: {name} is {index.dtype} {tuple(index.shape)}, not int32 or int64 [{tokens.shape[0]}]"
            )
        check_devices(op, tokens, index)


def check_devices(op: str, first: Tensor, *others: Tensor) -> None:
    """All tensors are on one device."""
    device = first.device
    for other in others:
        if other.device != device:
            raise RuntimeError(f"{op}: tensors on {device} and {other.device}; they must be on one device")
