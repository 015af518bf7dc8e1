"""Attention of a decoding step: rotary positions, the append to the cache, and attention over it, in one call."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import decode_attention as cpu
from illume_fast.kernels.cuda import decode_attention as cuda
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.paged_append import paged_append
from illume_fast.ops.paged_attention import paged_attention, paged_prefill_attention
from illume_fast.ops.paged_cache import STORAGE_TYPES, check_devices, check_indices, check_pages, raise_out_of_range
from illume_fast.ops.rope import rope


def decode_attention_reference(
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
    rows: Tensor | None = None,
) -> Tensor:
    """`rope` of q and k, `paged_append` of k and v, then `paged_attention`, for tokens of several sequences.

    `q` is [B, Hq, D], `k` and `v` [B, Hkv, D], not yet turned and of one dtype; `cos` and `sin` are float32 [B, D / 2]
    (float64 with float64). Token b goes to `positions[b]` of row `rows[b]` (both int32 or int64 [B]; row b where rows
    is None) of `page_table` (int32 [rows, max_pages]) and sees positions 0 to positions[b] of that row; all tokens are
    written before any looks. Pages are as for `paged_attention`. Returns [B, Hq, D] contiguous, with the bits that the
    three ops give.

    Raises:
        RuntimeError: naming a position or page that is out of range. On a GPU, to save waiting for it, such a token is
            not written and gets NaN instead.
    """
    q, k = rope(q, k, cos, sin)
    own = torch.arange(q.shape[0], device=q.device) if rows is None else rows
    paged_append(k, v, k_pages, v_pages, page_table, own, positions)
    if rows is None:
        return paged_attention(q, k_pages, v_pages, page_table, positions + 1, scale)
    return paged_prefill_attention(q, k_pages, v_pages, page_table, rows, positions, scale)


def _check(
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
) -> None:
    op = "decode_attention"
    shape, keys = q.shape, k.shape
    if len(shape) != 3 or len(keys) != 3 or (shape[0], shape[2]) != (keys[0], keys[2]) or v.shape != keys:
        shapes = f"{tuple(shape)}, {tuple(keys)} and {tuple(v.shape)}"
        raise RuntimeError(f"{op}: q, k and v have shapes {shapes}, not [B, Hq, D] and twice [B, Hkv, D]")
    if q.dtype not in STORAGE_TYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise RuntimeError(f"{op}: q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, not one floating-point type")
    if keys[1] == 0 or shape[1] % keys[1] != 0:
        raise RuntimeError(f"{op}: {shape[1]} query heads are no multiple of {keys[1]} key heads")
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    half = (shape[0], shape[2] // 2)
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape != half or table.dtype != wide or shape[2] % 2 != 0:
            raise RuntimeError(
                f"{op}: {name} is {table.dtype} {tuple(table.shape)}; with q {q.dtype} {tuple(shape)} it must be "
                f"{wide} [B, D / 2]"
            )
    check_pages(op, keys[1], keys[2], k_pages, v_pages, page_table)
    check_indices(op, q, positions=positions, **({} if rows is None else {"rows": rows}))
    check_devices(op, q, k, v, cos, sin, k_pages, v_pages, page_table)
    if rows is None and page_table.shape[0] < shape[0]:
        raise RuntimeError(f"{op}: {shape[0]} tokens, but page_table has {page_table.shape[0]} rows")


def _run_cpu(*arguments: Any) -> Tensor:
    out, bad = cpu.run(*arguments)
    if bad >= 0:
        k_pages, _, page_table, positions, _, rows = arguments[5:]
        rows = torch.arange(len(out)) if rows is None else rows
        raise_out_of_range("decode_attention", k_pages, page_table, rows, positions, bad)
    return out


decode_attention = declare(
    "decode_attention",
    decode_attention_reference,
    Backend("cpu", _run_cpu, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    check=_check,
    fake=lambda q, *rest: torch.empty_like(q, memory_format=torch.contiguous_format),
    mutates=("k_pages", "v_pages"),
)
