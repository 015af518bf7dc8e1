"""SwiGLU: silu(gate) * up, the elementwise middle of the feed-forward block (Shazeer 2020, arXiv 2002.05202)."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import swiglu as cpu
from illume_fast.kernels.cuda import swiglu as cuda
from illume_fast.ops.dispatch import Backend, declare


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up.

    `gate` and `up` have one shape, dtype (float32, bfloat16, float16; float64 on the reference alone) and device; each
    may be a strided half of a fused tensor. Arithmetic is in float32 or wider. Returns a contiguous tensor of their
    shape and dtype. Differentiable.
    """
    g = _widen(gate)
    return (g * g.sigmoid() * _widen(up)).to(gate.dtype).contiguous()


def swiglu_backward_reference(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up` from `grad`, that of the result."""
    dy, g = _widen(grad), _widen(gate)
    s = g.sigmoid()
    # dy last: its product with a large number is infinite, and s may be 0
    grad_gate = dy * (_widen(up) * (s * (1 + g * (1 - s))))
    return grad_gate.to(gate.dtype).contiguous(), (dy * (g * s)).to(up.dtype).contiguous()


def _check(*tensors: Tensor) -> None:
    first = tensors[-2]
    if not first.dtype.is_floating_point:
        raise RuntimeError(f"swiglu: gate is {first.dtype}, not a floating-point type")
    for t in tensors:
        if t is first:
            continue
        if t.shape != first.shape:
            raise RuntimeError(f"swiglu: shapes {tuple(first.shape)} and {tuple(t.shape)} differ")
        if t.dtype != first.dtype:
            raise RuntimeError(f"swiglu: dtypes {first.dtype} and {t.dtype} differ")
        if t.device != first.device:
            raise RuntimeError(f"swiglu: devices {first.device} and {t.device} differ")


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


swiglu_backward = declare(
    "swiglu_backward",
    swiglu_backward_reference,
    Backend("cpu", cpu.backward, cpu.declines),
    Backend("cuda", cuda.backward, cuda.declines),
    check=_check,
    fake=lambda grad, gate, up: (_empty(gate), _empty(up)),
)
swiglu = declare(
    "swiglu",
    swiglu_reference,
    Backend("cpu", cpu.forward, cpu.declines),
    Backend("cuda", cuda.forward, cuda.declines),
    check=_check,
    fake=lambda gate, up: _empty(gate),
    setup_context=_save,
    backward=lambda ctx, grad: swiglu_backward(grad, *ctx.saved_tensors),
)
