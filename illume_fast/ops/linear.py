"""A linear layer, made for the few rows of decoding."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import linear as cpu
from illume_fast.ops.dispatch import Backend, declare


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as `torch.nn.functional.linear`.

    `x` [..., K], `weight` [N, K] and `bias` [N] have one dtype (float32, bfloat16, float16; float64 on the reference
    alone) and device, and any strides. Sums are in float32 or wider. The CPU kernel reads the weight at the speed of
    memory, where it lies (there is no packed copy), and gives each row bits that depend on that row alone: neither on
    the rows beside it nor on the number of threads. Subnormal bfloat16 numbers may count as zero.

    Returns [..., N], contiguous, of x's dtype. Differentiable.
    """
    return F.linear(x, weight, bias).contiguous()


def check_linear(op: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """What every op with a linear layer in it asks of that layer."""
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"{op}: x and weight have shapes {shapes}, they must be [..., K] and [N, K]")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{op}: x is {x.dtype}, not a floating-point type")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):
        raise RuntimeError(f"{op}: bias has shape {tuple(bias.shape)}, it must be [{weight.shape[0]}]")
    for other in (weight,) if bias is None else (weight, bias):
        if other.dtype != x.dtype:
            raise RuntimeError(f"{op}: dtypes {x.dtype} and {other.dtype} differ")
        if other.device != x.device:
            raise RuntimeError(f"{op}: devices {x.device} and {other.device} differ")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    rows = grad.reshape(-1, grad.shape[-1])
    grad_x = grad @ weight if needs[0] else None
    grad_weight = weight_gradient(grad, x) if needs[1] else None
    return grad_x, grad_weight, rows.sum(0) if ctx.has_bias and needs[2] else None


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight of a linear layer of x from that of its result."""
    return grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])


linear = declare(
    "linear",
    linear_reference,
    Backend("cpu", cpu.run, cpu.declines),
    check=lambda x, weight, bias=None: check_linear("linear", x, weight, bias),
    fake=lambda x, weight, bias=None: x.new_empty(*x.shape[:-1], weight.shape[0]),
    setup_context=_save,
    backward=_backward,
)
