"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467), alone and after a residual sum."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import rms_norm as cpu
from illume_fast.kernels.cuda import rms_norm as cuda
from illume_fast.ops.dispatch import Backend, declare


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse_rms(wide: Tensor, eps: float) -> Tensor:
    # float64: the square of a large float32 overflows
    return (wide.double().square().mean(-1, keepdim=True) + eps).rsqrt().to(wide.dtype)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis.

    `x` is [..., H] and `weight` [H], of one dtype (float32, bfloat16, float16; float64 on the reference alone). The
    normalised x is rounded to the dtype before it meets the weight, as in Hugging Face's models. Returns a contiguous
    tensor of x's shape and dtype. Differentiable.
    """
    wide = _widen(x)
    return ((wide * _inverse_rms(wide, eps)).to(x.dtype) * weight).contiguous()


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual, weight, eps), x + residual), the sum rounded to the dtype first; all of one dtype."""
    total = (x + residual).contiguous()
    return rms_norm_reference(total, weight, eps), total


def rms_norm_backward_reference(
    grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and `weight` from `grad`, that of rms_norm's result.

    `grad_sum` is what else flows into `x`, for `add_rms_norm`: it is added to x's gradient.
    """
    wide = _widen(x)
    inverse = _inverse_rms(wide, eps)
    normal = wide * inverse
    dy = _widen(grad)
    scaled = dy * _widen(weight)
    grad_x = inverse * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
    if grad_sum is not None:
        grad_x = grad_x + _widen(grad_sum)
    grad_weight = (dy * normal).sum_to_size(weight.shape)
    return grad_x.to(x.dtype).contiguous(), grad_weight.to(weight.dtype)


def _check_like(op: str, x: Tensor, other: Tensor, name: str) -> None:
    if other.shape != x.shape:
        raise RuntimeError(f"{op}: x is {tuple(x.shape)} and {name} {tuple(other.shape)}; they must have one shape")
    if other.dtype != x.dtype:
        raise RuntimeError(f"{op}: x is {x.dtype} and {name} {other.dtype}; they must have one dtype")
    if other.device != x.device:
        raise RuntimeError(f"{op}: x is on {x.device} and {name} on {other.device}; they must be on one device")


def _check(x: Tensor, weight: Tensor, eps: float) -> None:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"rms_norm: x is {x.dtype}, not a floating-point type")
    if weight.dim() != 1 or x.dim() == 0 or x.shape[-1] != weight.shape[0]:
        raise RuntimeError(f"rms_norm: x is {tuple(x.shape)} and weight {tuple(weight.shape)}, not [..., H] and [H]")
    if weight.dtype != x.dtype:
        raise RuntimeError(f"rms_norm: x is {x.dtype} and weight {weight.dtype}; they must have one dtype")
    if weight.device != x.device:
        raise RuntimeError(f"rms_norm: x is on {x.device} and weight on {weight.device}; they must be on one device")
    if not eps >= 0:
        raise RuntimeError(f"rms_norm: eps is {eps}, not at least 0")


def _check_add(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> None:
    _check(x, weight, eps)
    _check_like("add_rms_norm", x, residual, "residual")


def _check_backward(grad: Tensor, grad_sum: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> None:
    _check(x, weight, eps)
    _check_like("rms_norm_backward", x, grad, "grad")
    if grad_sum is not None:
        _check_like("rms_norm_backward", x, grad_sum, "grad_sum")


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight = ctx.saved_tensors
    return *rms_norm_backward(grad, None, x, weight, ctx.eps), None


def _save_add(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    _, _, weight, ctx.eps = inputs
    ctx.save_for_backward(output[1], weight)


def _backward_add(ctx: Any, grad: Tensor, grad_sum: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    total, weight = ctx.saved_tensors
    grad_total, grad_weight = rms_norm_backward(grad, grad_sum, total, weight, ctx.eps)
    return grad_total, grad_total, grad_weight, None


rms_norm_backward = declare(
    "rms_norm_backward",
    rms_norm_backward_reference,
    Backend("cpu", cpu.backward, cpu.declines),
    Backend("cuda", cuda.backward, cuda.declines),
    check=_check_backward,
    fake=lambda grad, grad_sum, x, weight, eps: (_empty(x), _empty(weight)),
)
rms_norm = declare(
    "rms_norm",
    rms_norm_reference,
    Backend("cpu", cpu.forward, cpu.declines),
    Backend("cuda", cuda.forward, cuda.declines),
    check=_check,
    fake=lambda x, weight, eps: _empty(x),
    setup_context=_save,
    backward=_backward,
)
add_rms_norm = declare(
    "add_rms_norm",
    add_rms_norm_reference,
    Backend("cpu", cpu.add_forward, cpu.declines),
    Backend("cuda", cuda.add_forward, cuda.declines),
    check=_check_add,
    fake=lambda x, residual, weight, eps: (_empty(x), _empty(x)),
    setup_context=_save_add,
    backward=_backward_add,
)
