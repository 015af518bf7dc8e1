"""Guidance on hidden states, the legal rows of the head, and the draw, on the CPU; see `illume_fast.ops`."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu import cfg_sample, linear
from illume_fast.kernels.sampling import HeadParameters, in_rows


def declines(hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, *rest: object) -> str | None:
    return native.declines_cpu(hidden_cond, weight)


def run(
    hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, lo: int, hi: int, *parameters: Any
) -> Tensor:
    p = HeadParameters.of(parameters)
    weight, bias = weight[lo:hi], None if p.bias is None else p.bias[lo:hi]
    if p.seen is not None:
        cond = _logits(hidden_cond.to(weight.dtype), weight, bias, lo, p.holes)
        cond = _penalized(cond, p, lo)
        uncond = None
        if hidden_uncond is not None:
            uncond = _logits(hidden_uncond.to(weight.dtype), weight, bias, lo, p.holes)
            uncond = uncond if uncond.dtype == torch.float32 else _mixed(uncond, uncond, torch.float32, 1.0, None)
        return cfg_sample.sample(cond, uncond, lo, p.numbers, p.per_row, p.noise)
    hidden = hidden_cond.to(weight.dtype)
    if hidden_uncond is not None:
        hidden = _mixed(hidden_cond, hidden_uncond, weight.dtype, p.numbers[0], p.per_row[0])
    logits = _logits(hidden, weight, bias, lo, p.holes)
    return cfg_sample.sample(logits, None, lo, (1.0, *p.numbers[1:]), (None, *p.per_row[1:]), p.noise)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, lo: int, holes: list[int] | None) -> Tensor:
    logits = linear.run(hidden, weight, bias)
    if holes:
        code, (rows, size) = native.DTYPE_CODES[logits.dtype], logits.shape
        native._C.mask_columns(code, logits.data_ptr(), rows, size, [column - lo for column in holes])
    return logits


def _penalized(logits: Tensor, p: HeadParameters, lo: int) -> Tensor:
    out = torch.empty(logits.shape, dtype=torch.float32)
    penalties, seen, counts = _whole(p.penalty_rows), in_rows(p.seen), _whole(p.seen_counts)
    native._C.repetition_penalty(
        native.DTYPE_CODES[logits.dtype],
        logits.data_ptr(),
        out.data_ptr(),
        *logits.shape,
        lo,
        seen.data_ptr(),
        seen.shape[1],
        seen.stride(0),
        counts.data_ptr(),
        p.penalty,
        0 if penalties is None else penalties.data_ptr(),
    )
    return out


def _whole(values: Tensor | None) -> Any:
    return None if values is None else values.contiguous()


def _mixed(cond: Tensor, uncond: Tensor, dtype: torch.dtype, guidance: float, guidance_rows: Tensor | None) -> Tensor:
    out = torch.empty(cond.shape, dtype=dtype)
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = _whole(guidance_rows)
    native._C.cfg_mix(
        native.DTYPE_CODES[cond.dtype],
        cond.data_ptr(),
        cond.stride(0),
        uncond.data_ptr(),
        uncond.stride(0),
        native.DTYPE_CODES[dtype],
        out.data_ptr(),
        *cond.shape,
        guidance,
        0 if values is None else values.data_ptr(),
    )
    return out
