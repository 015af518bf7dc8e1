"""Rows in the order of the codes they chose, and sums over those of a code."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def sort_by_code(ids: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """(order, bounds): the rows of code k are order[bounds[k]] to order[bounds[k + 1] - 1], as they came in; rows whose
    id is not in [0, codes) are left out."""
    ordered, order = ids.sort(stable=True)
    return order, torch.searchsorted(ordered, torch.arange(codes + 1, device=ids.device))


def warps(size: int) -> int:
    """Warps of a program that adds up rows of `size` numbers."""
    return max(1, min(8, triton.next_power_of_2(size) // 128))


@triton.jit
def total_of_code(x, row_stride, stride, weights, order, begin, end, size, WIDE: tl.constexpr, WEIGHTED: tl.constexpr):
    """The sum of rows order[begin] to order[end - 1] in the order they came in, each times its weight, float64 [WIDE],
    and the sum of those weights."""
    d = tl.arange(0, WIDE)
    total = tl.zeros([WIDE], tl.float64)
    weight = tl.zeros([], tl.float64)
    for i in range(begin, end):
        row = tl.load(order + i)
        value = tl.load(x + row * row_stride + d * stride, mask=d < size, other=0.0).to(tl.float64)
        if WEIGHTED:
            own = tl.load(weights + row).to(tl.float64)
            value = own * value
            weight += own
        total += value
    return total, weight
