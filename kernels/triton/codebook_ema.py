"""Moving averages of a codebook in Triton, one program a code; contracts are in `illume_fast.ops.codebook_ema`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from illume_fast.kernels.triton.by_code import sort_by_code, total_of_code, warps


def run(x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, codebook: Tensor, decay: float, eps: float) -> None:
    codes, size = codebook.shape
    if codes == 0:
        return
    order, bounds = sort_by_code(ids, codes)
    counts.copy_(decay * counts.double() + (1 - decay) * bounds.diff())
    wide = counts.double()
    total = wide.sum()
    smoothed = (wide + eps) * torch.where(total == 0, 0.0, total / (total + codes * eps))
    # a number of the launch would be rounded to float32
    kept = torch.full((1,), decay, dtype=torch.float64, device=x.device)
    if size > 0:
        update_kernel[(codes,)](
            x, x.stride(0), x.stride(1), order, bounds, smoothed, kept, sums, *sums.stride(), codebook,
            *codebook.stride(), size, WIDE=triton.next_power_of_2(size), num_warps=warps(size),
        )  # fmt: skip


@triton.jit
def update_kernel(
    x, row_stride, stride, order, bounds, smoothed, kept, sums, sums_row, sums_stride, codebook, codebook_row,
    codebook_stride, size, WIDE: tl.constexpr,
):  # fmt: skip
    """Program k moves the sum of code k and the code."""
    code = tl.program_id(0).to(tl.int64)
    total, _ = total_of_code(
        x, row_stride, stride, x, order, tl.load(bounds + code), tl.load(bounds + code + 1), size, WIDE, False
    )
    d = tl.arange(0, WIDE)
    decay, by = tl.load(kept), tl.load(smoothed + code)
    to = sums + code * sums_row + d * sums_stride
    moved = decay * tl.load(to, mask=d < size, other=0.0).to(tl.float64) + (1 - decay) * total
    moved = moved.to(tl.float32)
    tl.store(to, moved, mask=d < size)
    value = (moved.to(tl.float64) / tl.where(by == 0, 1.0, by)).to(tl.float32)
    place = codebook + code * codebook_row + d * codebook_stride
    tl.store(place, value.to(codebook.dtype.element_ty), mask=d < tl.where(by == 0, 0, size))
