"""Moving averages of a codebook on the CPU; contracts are in `illume_fast.ops.codebook_ema`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows


def declines(
    x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, codebook: Tensor, decay: float, eps: float
) -> str | None:
    if not (counts.is_contiguous() and sums.is_contiguous() and codebook.is_contiguous()):
        return "needs contiguous counts, sums and codebook"
    return native.declines_cpu(x, codebook)


def run(x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, codebook: Tensor, decay: float, eps: float) -> None:
    (rows, size), codes = x.shape, len(codebook)
    x, ids = in_rows(x), ids.contiguous()
    ends = torch.empty(codes, dtype=torch.int64)
    order = torch.empty(rows, dtype=torch.int64)
    bad = native._C.codebook_ema(
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        ids.data_ptr(),
        ends.data_ptr(),
        order.data_ptr(),
        counts.data_ptr(),
        sums.data_ptr(),
        native.DTYPE_CODES[codebook.dtype],
        codebook.data_ptr(),
        decay,
        eps,
        rows,
        size,
        codes,
    )
    if bad >= 0:
        raise RuntimeError(f"codebook_ema: ids must lie in [-1, {codes}), got {int(ids[bad])}")
