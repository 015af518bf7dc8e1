"""Guidance on hidden states, the legal rows of the head, and the draw, on the CPU; see `illume_fast.ops`."""

import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu import cfg_sample


def declines(hidden_cond: Tensor, hidden_uncond: Tensor | None, weight: Tensor, *rest: object) -> str | None:
    return native.declines_cpu(hidden_cond, weight)


def run(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    lo: int,
    hi: int,
    guidance: float,
    *parameters: float | Tensor | None,
) -> Tensor:
    filters, guidance_rows, filter_rows = parameters[:6], parameters[6], parameters[7:]
    hidden = hidden_cond
    if hidden_uncond is not None:
        hidden = mixed(hidden_cond.float(), hidden_uncond.float(), guidance, guidance_rows)
    logits = F.linear(hidden.to(weight.dtype), weight[lo:hi])
    ids = cfg_sample.run(logits, None, 1.0, *filters, None, *filter_rows)
    return ids.add_(lo) if lo and bool((ids >= 0).all()) else ids.where(ids < 0, ids + lo)


def mixed(cond: Tensor, uncond: Tensor, guidance: float, guidance_rows: object) -> Tensor:
    """uncond + guidance * (cond - uncond), float32; exactly a branch where guidance is 0 or 1."""
    if isinstance(guidance_rows, Tensor):
        g = guidance_rows[:, None]
        hidden = (cond - uncond).mul_(g).add_(uncond)
        plain = (g == 0) | (g == 1)
        return hidden if not plain.any() else hidden.where(~plain, cond.where(g == 1, uncond))
    if guidance in (0, 1):
        return cond if guidance == 1 else uncond
    return (cond - uncond).mul_(guidance).add_(uncond)
