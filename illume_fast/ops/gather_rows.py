"""Rows of a table by their numbers: an embedding, or some of a batch's hidden states."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import gather_rows as cpu
from illume_fast.kernels.cuda import gather_rows as cuda
from illume_fast.ops.dispatch import Backend, declare


def gather_rows_reference(table: Tensor, index: Tensor) -> Tensor:
    """table[index], with zeros where the index is negative.

    `table` is [N, W] of any dtype, `index` int64 [...]. Returns [..., W], contiguous. No gradient.

    Raises:
        RuntimeError: an index is N or more. On a GPU, to save waiting for it, such a row gets ones in every bit
            instead, which is NaN in a floating-point type.
    """
    known = index >= 0
    if table.numel() == 0:
        return table.new_zeros(*index.shape, table.shape[1])
    rows = F.embedding(torch.where(known, index, 0), table)
    return torch.where(known.unsqueeze(-1), rows, torch.zeros((), dtype=table.dtype, device=table.device))


def _check(table: Tensor, index: Tensor) -> None:
    if table.dim() != 2 or index.dtype != torch.int64:
        shapes = f"{table.dtype} {tuple(table.shape)} and {index.dtype} {tuple(index.shape)}"
        raise RuntimeError(f"gather_rows: table and index are {shapes}, they must be [N, W] and int64 [...]")
    if index.device != table.device:
        raise RuntimeError(f"gather_rows: tensors on {table.device} and {index.device}; they must be on one device")
    if index.is_cpu and index.numel() and table.shape[0] == 0 and bool((index >= 0).any()):
        raise RuntimeError("gather_rows: the table has no rows")


def _run_cpu(table: Tensor, index: Tensor) -> Tensor:
    out, bad = cpu.run(table, index)
    if bad >= 0:
        raise RuntimeError(f"gather_rows: index {int(index.flatten()[bad])} of a table of {table.shape[0]} rows")
    return out


gather_rows = declare(
    "gather_rows",
    gather_rows_reference,
    Backend("cpu", _run_cpu, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    check=_check,
    fake=lambda table, index: table.new_empty(*index.shape, table.shape[1]),
)
