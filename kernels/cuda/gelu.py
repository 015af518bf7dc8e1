"""GELU on an NVIDIA GPU, forward and backward; contracts are in `illume_fast.ops.gelu`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(first: Tensor, *others: Tensor | str) -> str | None:
    return native.declines_cuda(first)  # the op's check has made the other tensor like it


def forward(x: Tensor, approximate: str) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    native.launch_cuda(
        "gelu_forward",
        x,
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        out.data_ptr(),
        x.numel(),
        approximate == "tanh",
        op="gelu",
    )
    return out


def backward(grad: Tensor, x: Tensor, approximate: str) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    if grad_x.numel() == 0:
        return grad_x
    native.launch_cuda(
        "gelu_backward",
        x,
        native.DTYPE_CODES[x.dtype],
        grad.data_ptr(),
        x.data_ptr(),
        grad_x.data_ptr(),
        x.numel(),
        approximate == "tanh",
    )
    return grad_x
