"""Guidance, filters and draw on an NVIDIA GPU, in one launch; contracts are in `illume_fast.ops.cfg_sample`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.sampling import addresses, branches, in_one, in_rows, without_draw


def declines(cond: Tensor, *rest: object) -> str | None:
    return native.declines_cuda(cond)


def run(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | str | None) -> Tensor:
    numbers, per_row, noise = in_one(parameters)
    return sample(cond, uncond, 0, numbers, per_row, noise)


def sample(
    cond: Tensor, uncond: Tensor | None, first: int, numbers: Sequence[Any], per_row: Sequence[Any], noise: object
) -> Tensor:
    """The draws, when the id of a row's first logit is `first`."""
    rows, size = cond.shape
    if rows == 0 or size == 0:
        return cond.new_full((rows,), -1, dtype=torch.int64)
    out = torch.empty(rows, dtype=torch.int64, device=cond.device)
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = [v.contiguous() if isinstance(v, Tensor) else None for v in per_row]
    given = *branches(cond, uncond), out.data_ptr(), first, rows, size, numbers, addresses(values), noise == "race"
    native.launch_cuda("cfg_sample", cond, *given)
    return out


def weights(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | None) -> Tensor:
    half = len(parameters) // 2
    out = torch.empty(cond.shape, dtype=torch.int64, device=cond.device)
    if cond.numel() == 0:
        return out
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = [v.contiguous() if isinstance(v, Tensor) else None for v in without_draw(parameters[half:])]
    numbers = without_draw(parameters[:half])
    given = *branches(cond, uncond), out.data_ptr(), *cond.shape, numbers, addresses(values)
    native.launch_cuda("cfg_weights", cond, *given, op="cfg_probabilities")
    return out
