"""Guidance, filters and draw on the CPU; contracts are in `illume_fast.ops.cfg_sample`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(cond: Tensor, *rest: object) -> str | None:
    return native.declines_cpu(cond)


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
    out = torch.empty(rows, dtype=torch.int64)
    if cond.stride(1) != 1 and size > 1:
        cond = cond.contiguous()
    if uncond is not None and uncond.stride(1) != 1 and size > 1:
        uncond = uncond.contiguous()
    values = [v.contiguous() if v is not None and isinstance(v, Tensor) else None for v in per_row]
    if not native._C.cfg_sample(
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
    ):
        raise MemoryError(f"cfg_sample: no memory to filter rows of {size} logits")
    return out
