"""Guidance on hidden states, the legal rows of the head, and the draw, on an NVIDIA GPU; see `illume_fast.ops`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cuda import cfg_sample


def declines(hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, *rest: object) -> str | None:
    return native.declines_cuda(hidden_cond, weight)


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
    if hidden_uncond is None or hidden_cond.numel() == 0:
        hidden = hidden_cond.to(weight.dtype)
    else:
        hidden = _mixed(hidden_cond, hidden_uncond, weight.dtype, guidance, guidance_rows)
    logits = F.linear(hidden, weight[lo:hi], bias)
    for start, end in zip(holes[::2], holes[1::2], strict=True) if holes else ():
        logits[:, start - lo : end - lo] = -torch.inf
    return cfg_sample.sample(logits, None, lo, (1.0, *filters), (None, *filter_rows), noise)


def _mixed(cond: Tensor, uncond: Tensor, dtype: torch.dtype, guidance: float, guidance_rows: object) -> Tensor:
    out = torch.empty(cond.shape, dtype=dtype, device=cond.device)
    cond, uncond = (t if t.stride(1) == 1 else t.contiguous() for t in (cond, uncond))
    values = guidance_rows.contiguous() if isinstance(guidance_rows, Tensor) else None
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
