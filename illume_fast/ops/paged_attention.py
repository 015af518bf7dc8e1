"""Attention over a paged key-value cache: one query a row (decoding), or ragged queries with a causal mask."""

from typing import NoReturn

import torch
from torch import Tensor

from illume_fast.kernels.cpu import paged_attention as cpu
from illume_fast.kernels.cuda import paged_attention as cuda
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
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


def paged_attention_reference(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, seq_lens: Tensor, scale: float
) -> Tensor:
    """softmax(scale * q[b] k^T) v over the first `seq_lens[b]` tokens of row b of the page table, for every b.

    `q` is [B, Hq, D], strided views allowed; `k_pages` and `v_pages` are [num_pages, page_size, Hkv, D], where Hkv
    divides Hq and query head h reads key head h // (Hq / Hkv); `page_table` is int32 [rows >= B, max_pages] (the layout
    of flash-attn's `flash_attn_with_kvcache`) and `seq_lens` int32 or int64 [B]. Arithmetic is in float32 (float64 with
    float64). Returns [B, Hq, D] contiguous, of q's dtype; zeros where the length is 0. What stands in the cache behind
    a row's length is never used. On the kernels a row's result is the same, bit for bit, alone and in any batch, with
    any number of threads.

    Raises:
        RuntimeError: naming a length or page that is out of range. On a GPU, to save waiting for it, such a row gets
            NaN instead.
    """
    rows = torch.arange(q.shape[0], device=q.device)
    if (seq_lens < 0).any():
        _raise_bad_length(k_pages, page_table, seq_lens, int((seq_lens < 0).nonzero()[0]))
    some = seq_lens > 0
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    out[some] = _attend("paged_attention", q[some], k_pages, v_pages, page_table, rows[some], seq_lens[some] - 1, scale)
    return out


def paged_prefill_attention_reference(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, scale: float
) -> Tensor:
    """As `paged_attention` for tokens [T, Hq, D] in any order: token t sees 0 to positions[t] of row rows[t].

    `rows` and `positions` are int32 or int64 [T]; the tokens' own keys must be in the cache already. A token's result
    has the same bits as that of `paged_attention` with length positions[t] + 1.
    """
    return _attend("paged_prefill_attention", q, k_pages, v_pages, page_table, rows, positions, scale)


def _raise_bad_length(k_pages: Tensor, page_table: Tensor, seq_lens: Tensor, row: int) -> NoReturn:
    if seq_lens[row] < 0:
        raise RuntimeError(f"paged_attention: seq_lens[{row}] is {int(seq_lens[row])}, not at least 0")
    rows = torch.arange(len(seq_lens), device=seq_lens.device)
    raise_out_of_range("paged_attention", k_pages, page_table, rows, seq_lens - 1, row)


def _attend(
    op: str, q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, last: Tensor, scale: float
) -> Tensor:
    bad = first_out_of_range(k_pages, page_table, rows, last, from_start=True)
    if bad is not None:
        raise_out_of_range(op, k_pages, page_table, rows, last, bad)
    if q.numel() == 0:
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)
    wide = torch.promote_types(torch.promote_types(q.dtype, k_pages.dtype), torch.float32)
    span = torch.arange(int(last.max()) + 1, device=q.device)
    hidden = span > last[:, None]  # [T, L]
    where = page_of(k_pages, page_table, rows[:, None], span.masked_fill(hidden, 0))
    keys, values = (pages[where].to(wide).masked_fill(hidden[:, :, None, None], 0) for pages in (k_pages, v_pages))
    grouped = q.to(wide).unflatten(1, (keys.shape[2], -1))  # [T, Hkv, Hq / Hkv, D]
    scores = torch.einsum("tkgd,tlkd->tkgl", grouped, keys) * scale
    weights = scores.masked_fill(hidden[:, None, None], float("-inf")).softmax(-1)
    return torch.einsum("tkgl,tlkd->tkgd", weights, values).reshape(q.shape).to(q.dtype)


def _check_query(op: str, q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor) -> None:
    if q.dim() != 3 or q.dtype not in STORAGE_TYPES:
        raise RuntimeError(f"{op}: q is {q.dtype} {tuple(q.shape)}, not floating-point [T, Hq, D]")
    if k_pages.dim() != 4 or (k_pages.shape[2] == 0 or q.shape[1] % k_pages.shape[2] != 0):
        raise RuntimeError(
            f"{op}: k_pages is {tuple(k_pages.shape)}, not [num_pages, page_size, Hkv, D] with an Hkv that divides the "
            f"{q.shape[1]} heads of q"
        )
    check_pages(op, k_pages.shape[2], q.shape[2], k_pages, v_pages, page_table)
    check_devices(op, q, k_pages, v_pages, page_table)


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, seq_lens: Tensor, scale: float) -> None:
    _check_query("paged_attention", q, k_pages, v_pages, page_table)
    check_indices("paged_attention", q, seq_lens=seq_lens)
    if page_table.shape[0] < q.shape[0]:
        raise RuntimeError(f"paged_attention: {q.shape[0]} queries, but page_table has {page_table.shape[0]} rows")


def _check_prefill(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, scale: float
) -> None:
    _check_query("paged_prefill_attention", q, k_pages, v_pages, page_table)
    check_indices("paged_prefill_attention", q, rows=rows, positions=positions)


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _decode_cpu(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, seq_lens: Tensor, scale: float
) -> Tensor:
    out, bad = cpu.attend(q, k_pages, v_pages, page_table, None, seq_lens, 0, scale)
    if bad >= 0:
        _raise_bad_length(k_pages, page_table, seq_lens, bad)
    return out


def _prefill_cpu(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, scale: float
) -> Tensor:
    out, bad = cpu.attend(q, k_pages, v_pages, page_table, rows, positions, 1, scale)
    if bad >= 0:
        raise_out_of_range("paged_prefill_attention", k_pages, page_table, rows, positions, bad)
    return out


def _decode_cuda(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, seq_lens: Tensor, scale: float
) -> Tensor:
    return cuda.attend(q, k_pages, v_pages, page_table, None, seq_lens, 0, scale)


def _prefill_cuda(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, scale: float
) -> Tensor:
    return cuda.attend(q, k_pages, v_pages, page_table, rows, positions, 1, scale)


_triton = lazily("paged_attention", "attend")


def _declines_triton(q: Tensor, k_pages: Tensor, *rest: Tensor | float) -> str | None:
    return declines_triton(q, k_pages)


def _decode_triton(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, seq_lens: Tensor, scale: float
) -> Tensor:
    return _triton(q, k_pages, v_pages, page_table, None, seq_lens, 0, scale)


def _prefill_triton(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, rows: Tensor, positions: Tensor, scale: float
) -> Tensor:
    return _triton(q, k_pages, v_pages, page_table, rows, positions, 1, scale)


paged_attention = declare(
    "paged_attention",
    paged_attention_reference,
    Backend("cpu", _decode_cpu, cpu.declines),
    Backend("cuda", _decode_cuda, cuda.declines),
    Backend("triton", _decode_triton, _declines_triton),
    check=_check,
    fake=lambda q, k_pages, v_pages, page_table, seq_lens, scale: _empty(q),
)
paged_prefill_attention = declare(
    "paged_prefill_attention",
    paged_prefill_attention_reference,
    Backend("cpu", _prefill_cpu, cpu.declines),
    Backend("cuda", _prefill_cuda, cuda.declines),
    Backend("triton", _prefill_triton, _declines_triton),
    check=_check_prefill,
    fake=lambda q, k_pages, v_pages, page_table, rows, positions, scale: _empty(q),
)
