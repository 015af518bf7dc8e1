"""SwiGLU on an NVIDIA GPU, forward and backward; contracts are in `illume_fast.ops.swiglu`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.swiglu import in_rows


def declines(*tensors: Tensor) -> str | None:
    return native.declines_cuda(tensors[0])  # the op's check has made the others like it


def forward(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    gate, gate_stride, up, up_stride, rows, columns = in_rows(gate, up)
    native.launch_cuda(
        "swiglu_forward",
        out,
        native.DTYPE_CODES[out.dtype],
        gate.data_ptr(),
        gate_stride,
        up.data_ptr(),
        up_stride,
        out.data_ptr(),
        rows,
        columns,
        op="swiglu",
    )
    return out


def backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    grad_up = torch.empty_like(grad_gate)
    if grad_gate.numel() == 0:
        return grad_gate, grad_up
    gate, gate_stride, up, up_stride, rows, columns = in_rows(gate, up)
    native.launch_cuda(
        "swiglu_backward",
        grad,
        native.DTYPE_CODES[grad.dtype],
        grad.data_ptr(),
        gate.data_ptr(),
        gate_stride,
        up.data_ptr(),
        up_stride,
        grad_gate.data_ptr(),
        grad_up.data_ptr(),
        rows,
        columns,
    )
    return grad_gate, grad_up
