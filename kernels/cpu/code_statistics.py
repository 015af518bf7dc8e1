"""Segment sums on the CPU; contracts are in `illume_fast.ops.code_statistics`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows


def declines(x: Tensor, ids: Tensor, K: int) -> str | None:
    return native.declines_cpu(x)


def run(x: Tensor, ids: Tensor, K: int) -> tuple[Tensor, Tensor]:
    rows, size = x.shape
    counts = torch.empty(K, dtype=torch.float32)
    sums = torch.empty(K, size, dtype=torch.float32)
    x, ids = in_rows(x), ids.contiguous()
    ends = torch.empty(K, dtype=torch.int64)
    order = torch.empty(rows, dtype=torch.int64)
    bad = native._C.code_statistics(
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        ids.data_ptr(),
        ends.data_ptr(),
        order.data_ptr(),
        counts.data_ptr(),
        sums.data_ptr(),
        rows,
        size,
        K,
    )
    if bad >= 0:
        raise RuntimeError(f"code_statistics: ids must lie in [-1, {K}), got {int(ids[bad])}")
    return counts, sums
