"""How often each code was chosen, and the sum of the vectors that chose it: what a codebook update needs."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import code_statistics as cpu
from illume_fast.kernels.cuda import code_statistics as cuda
from illume_fast.ops.dispatch import Backend, declare

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def code_statistics_reference(x: Tensor, ids: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """(counts float32 [K], sums float32 [K, D]) of the rows of `x` by their ids.

    `x` [N, D] is float32, bfloat16 or float16; `ids` int64 [N] in [-1, K), where -1 (a bad row, as `nearest_code`
    answers) leaves the row out and any other id out of range raises RuntimeError. Rows are added in float64 in the
    order they come in and rounded once, so the result is the same for every number of threads. Differentiable in `x`.
    """
    if ids.numel() > 0:
        low, high = (int(i) for i in torch.aminmax(ids))
        if low < -1 or high >= K:
            raise RuntimeError(f"code_statistics: ids must lie in [-1, {K}), got {low if low < -1 else high}")
    kept = ids >= 0
    counts = torch.bincount(ids[kept], minlength=K)
    sums = torch.zeros(K, x.shape[1], dtype=torch.float64, device=x.device)
    sums.index_add_(0, ids[kept], x[kept].double())
    return counts.float(), sums.float()


def _check(x: Tensor, ids: Tensor, K: int) -> None:
    if x.dim() != 2 or ids.dim() != 1 or x.shape[0] != ids.shape[0]:
        shapes = f"{tuple(x.shape)} and {tuple(ids.shape)}"
        raise RuntimeError(f"code_statistics: x and ids have shapes {shapes}, they must be [N, D] and [N]")
    if x.dtype not in DTYPES:
        raise RuntimeError(f"code_statistics: x is {x.dtype}, it must be float32, bfloat16 or float16")
    if ids.dtype != torch.int64:
        raise RuntimeError(f"code_statistics: ids is {ids.dtype}, it must be int64")
    if x.device != ids.device:
        raise RuntimeError(f"code_statistics: devices {x.device} and {ids.device} differ")
    if K < 0:
        raise RuntimeError(f"code_statistics: K is {K}, it must not be negative")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    x, ids, _ = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(ids)
    ctx.mark_non_differentiable(output[0])


def _backward(ctx: Any, grad_counts: Tensor | None, grad_sums: Tensor) -> tuple[Tensor, None, None]:
    (ids,) = ctx.saved_tensors
    padded = torch.cat([grad_sums, grad_sums.new_zeros(1, grad_sums.shape[1])])
    return padded[ids].to(ctx.dtype), None, None  # id -1 finds the row of zeros


code_statistics = declare(
    "code_statistics",
    code_statistics_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    check=_check,
    fake=lambda x, ids, K: (
        x.new_empty(K, dtype=torch.float32),
        x.new_empty(K, x.shape[1], dtype=torch.float32),
    ),
    setup_context=_save,
    backward=_backward,
)
