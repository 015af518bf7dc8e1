"""Root-mean-square normalisation on the CPU; contracts are in `illume_fast.ops.rms_norm`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(*args: Tensor | float | None) -> str | None:
    return native.declines_cpu(args[0])  # the op's check has made the others like it


def in_rows(x: Tensor) -> Tensor:
    """[rows, H] with contiguous rows: a view where x's layout allows, else a copy."""
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    x, weight = in_rows(x), weight.contiguous()
    rows, columns = x.shape
    native._C.rms_norm_forward(
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        0,
        0,
        weight.data_ptr(),
        eps,
        0,
        out.data_ptr(),
        rows,
        columns,
    )
    return out


def add_forward(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    out = torch.empty_like(total)
    if out.numel() == 0:
        return out, total
    x, residual, weight = in_rows(x), in_rows(residual), weight.contiguous()
    rows, columns = x.shape
    native._C.rms_norm_forward(
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        residual.data_ptr(),
        residual.stride(0),
        weight.data_ptr(),
        eps,
        total.data_ptr(),
        out.data_ptr(),
        rows,
        columns,
    )
    return out, total


def backward(grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    if x.numel() == 0:
        return grad_x, grad_weight.zero_()
    if grad_sum is not None:
        grad_sum = grad_sum.contiguous()
    native._C.rms_norm_backward(
        native.DTYPE_CODES[x.dtype],
        grad.data_ptr(),
        0 if grad_sum is None else grad_sum.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        eps,
        grad_x.data_ptr(),
        grad_weight.data_ptr(),
        x.numel() // x.shape[-1],
        x.shape[-1],
    )
    return grad_x, grad_weight
