"""SwiGLU on the CPU, forward and backward; contracts are in `illume_fast.ops.swiglu`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(*tensors: Tensor) -> str | None:
    return native.declines_cpu(tensors[0])  # the op's check has made the others like it


def in_rows(gate: Tensor, up: Tensor) -> tuple[Tensor, int, Tensor, int, int, int]:
    """(gate, its row stride, up, its row stride, rows, columns): views where axes can be merged, else copies.

    Keep the tensors until the kernel has run. The operands must not be empty.
    """
    if gate.is_contiguous() and up.is_contiguous():
        n = gate.numel()
        return gate, n, up, n, 1, n
    columns = gate.shape[-1]
    gate, up = (x.reshape(-1, columns) for x in (gate, up))
    gate, up = (x if x.stride(1) == 1 else x.contiguous() for x in (gate, up))
    return gate, gate.stride(0), up, up.stride(0), gate.shape[0], columns


def forward(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    gate, gate_stride, up, up_stride, rows, columns = in_rows(gate, up)
    native._C.swiglu_forward(
        native.DTYPE_CODES[out.dtype],
        gate.data_ptr(),
        gate_stride,
        up.data_ptr(),
        up_stride,
        out.data_ptr(),
        rows,
        columns,
    )
    return out


def backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    grad_up = torch.empty_like(grad_gate)
    if grad_gate.numel() == 0:
        return grad_gate, grad_up
    gate, gate_stride, up, up_stride, rows, columns = in_rows(gate, up)
    native._C.swiglu_backward(
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
