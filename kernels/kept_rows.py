"""The rows of a loss that count, taken out and put back."""

import torch
from torch import Tensor


def kept_rows(x: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """(rows of x [T, H] that count, their indices unless all do, their labels)."""
    counts = labels != ignore_index
    if bool(counts.all()):
        return x, None, labels.contiguous()
    kept = counts.nonzero().squeeze(1)
    return x[kept], kept, labels[kept]


def put_back(part: Tensor, kept: Tensor | None, count: int) -> Tensor:
    """`part` [kept, ...] among `count` rows, 0 at the others."""
    if kept is None:
        return part
    return torch.zeros(count, *part.shape[1:], dtype=part.dtype, device=part.device).index_copy_(0, kept, part)
