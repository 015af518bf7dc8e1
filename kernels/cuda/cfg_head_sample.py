"""Guidance on hidden states, the legal rows of the head, and the draw, on an NVIDIA GPU; see `illume_fast.ops`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cuda import cfg_sample
from illume_fast.kernels.sampling import HeadParameters, in_rows, penalized


def declines(hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, *rest: object) -> str | None:
    return native.declines_cuda(hidden_cond, weight)


def run(
    hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, lo: int, hi: int, *parameters: Any
) -> Tensor:
    p = HeadParameters.of(parameters)
    weight, bias = weight[lo:hi], None if p.bias is None else p.bias[lo:hi]
    if p.seen is not None and p.seen_counts is not None:
        logits = _logits(hidden_cond.to(weight.dtype), weight, bias, lo, p.holes)
        penalty = logits.new_full(logits.shape[:1], p.penalty, dtype=torch.float32)
        penalty = penalty if p.penalty_rows is None else p.penalty_rows
        cond = penalized(logits, p.seen, p.seen_counts, penalty, lo)
        uncond = None
        if hidden_uncond is not None:
            uncond = _logits(hidden_uncond.to(weight.dtype), weight, bias, lo, p.holes).float()
        return cfg_sample.sample(cond, uncond, lo, p.numbers, p.per_row, p.noise)
    hidden = hidden_cond.to(weight.dtype)
    if hidden_uncond is not None and hidden_cond.numel():
        hidden = _mixed(hidden_cond, hidden_uncond, weight.dtype, p.numbers[0], p.per_row[0])
    logits = _logits(hidden, weight, bias, lo, p.holes)
    return cfg_sample.sample(logits, None, lo, (1.0, *p.numbers[1:]), (None, *p.per_row[1:]), p.noise)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, lo: int, holes: list[int] | None) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    for start, end in zip(holes[::2], holes[1::2], strict=True) if holes else ():
        logits[:, start - lo : end - lo] = -torch.inf
    return logits


def _mixed(cond: Tensor, uncond: Tensor, dtype: torch.dtype, guidance: float, guidance_rows: Tensor | None) -> Tensor:
    out = torch.empty(cond.shape, dtype=dtype, device=cond.device)
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = None if guidance_rows is None else guidance_rows.contiguous()
    native.launch_cuda(
        "cfg_mix",
        cond,
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
        op="cfg_head_sample",
    )
    return out
