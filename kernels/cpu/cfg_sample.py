"""Guidance, filters and draw on the CPU; contracts are in `illume_fast.ops.cfg_sample`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.sampling import addresses, branches, in_one, in_rows, without_draw


def declines(cond: Tensor, *rest: object) -> str | None:
    return native.declines_cpu(cond)


def run(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | str | None) -> Tensor:
    numbers, per_row, noise = in_one(parameters)
    return sample(cond, uncond, 0, numbers, per_row, noise)


def sample(
    cond: Tensor, uncond: Tensor | None, first: int, numbers: Sequence[Any], per_row: Sequence[Any], noise: object
) -> Tensor:
    """The draws, when the id of a row's first logit is `first`."""
    rows, size = cond.shape
    out = torch.empty(rows, dtype=torch.int64)
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = [None if v is None else v.contiguous() for v in per_row]
    where = addresses(values)
    if not native._C.cfg_sample(
        *branches(cond, uncond), out.data_ptr(), first, rows, size, numbers, where, noise == "race"
    ):
        raise MemoryError(f"cfg_sample: no memory to filter rows of {size} logits")
    return out


def weights(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | None) -> Tensor:
    half = len(parameters) // 2
    out = torch.empty(cond.shape, dtype=torch.int64)
    cond, uncond = in_rows(cond), in_rows(uncond)
    values = [v.contiguous() if isinstance(v, Tensor) else None for v in without_draw(parameters[half:])]
    numbers = without_draw(parameters[:half])
    if not native._C.cfg_weights(*branches(cond, uncond), out.data_ptr(), *cond.shape, numbers, addresses(values)):
        raise MemoryError(f"cfg_probabilities: no memory to filter rows of {cond.shape[1]} logits")
    return out
