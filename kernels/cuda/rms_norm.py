"""Root-mean-square normalisation on an NVIDIA GPU; contracts are in `illume_fast.ops.rms_norm`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows


def declines(*args: Tensor | float | None) -> str | None:
    return native.declines_cuda(args[0])  # the op's check has made the others like it


def forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel() > 0:
        _forward(in_rows(x), None, weight.contiguous(), eps, None, out)
    return out


def add_forward(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    out = torch.empty_like(total)
    if out.numel() > 0:
        _forward(in_rows(x), in_rows(residual), weight.contiguous(), eps, total, out)
    return out, total


def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, total: Tensor | None, out: Tensor) -> None:
    native.launch_cuda(
        "rms_norm_forward",
        out,
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        0 if residual is None else residual.data_ptr(),
        0 if residual is None else residual.stride(0),
        weight.data_ptr(),
        eps,
        0 if total is None else total.data_ptr(),
        out.data_ptr(),
        *x.shape,
        op="rms_norm",
    )


def backward(grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    if x.numel() == 0:
        return grad_x, grad_weight.zero_()
    if grad_sum is not None:
        grad_sum = grad_sum.contiguous()
    rows, columns = x.numel() // x.shape[-1], x.shape[-1]
    inverses = torch.empty(rows, device=x.device)
    parts = torch.empty(native._C.cuda_rms_norm_parts, columns, device=x.device)
    native.launch_cuda(
        "rms_norm_backward",
        x,
        native.DTYPE_CODES[x.dtype],
        grad.data_ptr(),
        0 if grad_sum is None else grad_sum.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        eps,
        grad_x.data_ptr(),
        grad_weight.data_ptr(),
        inverses.data_ptr(),
        parts.data_ptr(),
        rows,
        columns,
    )
    return grad_x, grad_weight
