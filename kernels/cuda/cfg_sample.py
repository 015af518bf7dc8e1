"""Guidance, filters and draw on an NVIDIA GPU, in one launch; contracts are in `illume_fast.ops.cfg_sample`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(cond: Tensor, *rest: object) -> str | None:
    return native.declines_cuda(cond)


def run(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | str | None) -> Tensor:
    return sample(cond, uncond, 0, parameters[:7], parameters[7:14], parameters[14])


def sample(
    cond: Tensor,
    uncond: Tensor | None,
    first: int,
    numbers: Sequence[float | Tensor | str | None],
    per_row: Sequence[float | Tensor | str | None],
    noise: object,
) -> Tensor:
    """The draws, when the id of a row's first logit is `first`."""
    rows, size = cond.shape
    if rows == 0 or size == 0:
        return cond.new_full((rows,), -1, dtype=torch.int64)
    out = torch.empty(rows, dtype=torch.int64, device=cond.device)
    if cond.stride(1) != 1:
        cond = cond.contiguous()
    if uncond is not None and uncond.stride(1) != 1:
        uncond = uncond.contiguous()
    values = [v.contiguous() if isinstance(v, Tensor) else None for v in per_row]
    native.launch_cuda(
        "cfg_sample",
        cond,
        native.DTYPE_CODES[cond.dtype],
        cond.data_ptr(),
        cond.stride(0),
        0 if uncond is None else uncond.data_ptr(),
        0 if uncond is None else uncond.stride(0),
        out.data_ptr(),
        first,
        rows,
        size,
        numbers,
        [0 if v is None else v.data_ptr() for v in values],
        noise == "race",
    )
    return out
