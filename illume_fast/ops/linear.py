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
    the rows beside it nor on the number of threads. It takes up to 64 rows, or any number in float32; more than those
    are torch's. Subnormal bfloat16 numbers may count as zero.

    Returns [..., N], contiguous, of x's dtype. Differentiable.
    """
    return F.linear(x, weight, bias).contiguous()


def _check(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    if x.dim() < 1 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"linear: x and weight have shapes {shapes}, they must be [..., K] and [N, K]")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"linear: x is {x.dtype}, not a floating-point type")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):
        raise RuntimeError(f"linear: bias has shape {tuple(bias.shape)}, it must be [{weight.shape[0]}]")
    for other in (weight,) if bias is None else (weight, bias):
        if other.dtype != x.dtype:
            raise RuntimeError(f"linear: dtypes {x.dtype} and {other.dtype} differ")
        if other.device != x.device:
            raise RuntimeError(f"linear: devices {x.device} and {other.device} differ")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    rows = grad.reshape(-1, grad.shape[-1])
    needs = ctx.needs_input_grad
    return (
        grad @ weight if needs[0] else None,
        rows.T @ x.reshape(-1, x.shape[-1]) if needs[1] else None,
        rows.sum(0) if ctx.has_bias and needs[2] else None,
    )


linear = declare(
    "linear",
    linear_reference,
    Backend("cpu", cpu.run, cpu.declines),
    check=_check,
    fake=lambda x, weight, bias=None: x.new_empty(*x.shape[:-1], weight.shape[0]),
    setup_context=_save,
    backward=_backward,
)
