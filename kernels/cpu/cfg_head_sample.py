"""Guidance on hidden states, the legal rows of the head, and the draw, on the CPU; see `illume_fast.ops`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu import cfg_sample, linear


def declines(hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, *rest: object) -> str | None:
    return native.declines_cpu(hidden_cond, weight)


def run(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    lo: int,
    hi: int,
    guidance: float,
    *parameters: float | Tensor | list[int] | str | None,
) -> Tensor:
    filters, guidance_rows, filter_rows = parameters[:6], parameters[6], parameters[7:13]
    bias, holes, noise = parameters[13:]
    if isinstance(bias, Tensor):
        bias = bias[lo:hi]
    if hidden_uncond is None:
        hidden = hidden_cond.to(weight.dtype)
    else:
        hidden = _mixed(hidden_cond, hidden_uncond, weight.dtype, guidance, guidance_rows)
    logits = linear.run(hidden, weight[lo:hi], bias)
    if holes:
        code, (rows, size) = native.DTYPE_CODES[logits.dtype], logits.shape
        native._C.mask_columns(code, logits.data_ptr(), rows, size, [column - lo for column in holes])
    return cfg_sample.sample(logits, None, lo, (1.0, *filters), (None, *filter_rows), noise)


def _mixed(cond: Tensor, uncond: Tensor, dtype: torch.dtype, guidance: float, guidance_rows: object) -> Tensor:
    out = torch.empty(cond.shape, dtype=dtype)
    cond, uncond = (t if t.stride(1) == 1 else t.contiguous() for t in (cond, uncond))
    values = guidance_rows.contiguous() if isinstance(guidance_rows, Tensor) else None
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
