"""Segment sums on an NVIDIA GPU; contracts are in `illume_fast.ops.code_statistics`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(x: Tensor, ids: Tensor, K: int) -> str | None:
    return native.declines_cuda(x)


def run(x: Tensor, ids: Tensor, K: int) -> tuple[Tensor, Tensor]:
    size = x.shape[1]
    counts = torch.empty(K, device=x.device)
    sums = torch.empty(K, size, device=x.device)
    if ids.numel() > 0:
        low, high = torch.stack(torch.aminmax(ids)).tolist()
        if low < -1 or high >= K:
            raise RuntimeError(f"code_statistics: ids must lie in [-1, {K}), got {low if low < -1 else high}")
    if K == 0:
        return counts, sums
    ordered, order = ids.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(K + 1, device=x.device))
    native.launch_cuda(
        "code_statistics",
        x,
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        *x.stride(),
        order.data_ptr(),
        bounds.data_ptr(),
        counts.data_ptr(),
        sums.data_ptr(),
        K,
        size,
    )
    return counts, sums
