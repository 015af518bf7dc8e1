"""Rows of a table on an NVIDIA GPU; contracts are in `illume_fast.ops.gather_rows`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(table: Tensor, index: Tensor) -> str | None:
    if not table.is_cuda:
        return "needs CUDA tensors"
    if native.cuda_missing() is not None:
        return native.cuda_missing()
    return None if table.stride(1) == 1 or table.shape[1] == 1 else "needs a table of packed rows"


def run(table: Tensor, index: Tensor) -> Tensor:
    """A row whose number is too large gets ones in every bit: to say so, the GPU would have to be waited for."""
    index = index.contiguous()
    out = torch.empty(*index.shape, table.shape[1], dtype=table.dtype, device=table.device)
    if out.numel() == 0:
        return out
    native.launch_cuda(
        "gather_rows",
        table,
        table.data_ptr(),
        table.stride(0) * table.element_size(),
        table.shape[0],
        table.shape[1] * table.element_size(),
        index.data_ptr(),
        out.data_ptr(),
        index.numel(),
    )
    return out
