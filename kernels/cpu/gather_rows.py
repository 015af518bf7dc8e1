"""Rows of a table on the CPU; contracts are in `illume_fast.ops.gather_rows`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(table: Tensor, index: Tensor) -> str | None:
    if native.missing is not None:
        return native.missing
    if not table.is_cpu:
        return "needs CPU tensors"
    return None if table.stride(1) == 1 or table.shape[1] == 1 else "needs a table of packed rows"


def run(table: Tensor, index: Tensor) -> tuple[Tensor, int]:
    """The rows, and -1 or the first place whose number is too large; the rows are unfinished then."""
    index = index.contiguous()
    out = torch.empty(*index.shape, table.shape[1], dtype=table.dtype)
    bad = native._C.gather_rows(
        table.data_ptr(),
        table.stride(0) * table.element_size(),
        table.shape[0],
        table.shape[1] * table.element_size(),
        index.data_ptr(),
        out.data_ptr(),
        index.numel(),
    )
    return out, bad
