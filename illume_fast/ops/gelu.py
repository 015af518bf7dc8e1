"""GELU, the Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv 1606.08415), elementwise."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import gelu as cpu
from illume_fast.kernels.cuda import gelu as cuda
from illume_fast.ops.dispatch import Backend, declare

FORMS = ("none", "tanh")

# both forms are x or 0 beyond this
_FAR = 40.0


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gelu_reference(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the share of a standard normal distribution below x, as `torch.nn.functional.gelu`.

    `x` is float32, bfloat16 or float16 (float64 on the reference alone), of any shape and strides. `approximate` is
    "none" (the exact form, by erf) or "tanh": x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). Arithmetic is in
    float32 or wider; the relative error of the CPU kernel is below 6e-7 for x > -10, before rounding to 16 bits.
    Returns a contiguous tensor of x's shape and dtype; it is NaN at -inf, as torch's. Differentiable.
    """
    wide = _widen(x)
    # torch's own exact form is NaN at inf where it runs on vectors, and has lost the small values at negative x
    y = F.gelu(wide, approximate="tanh") if approximate == "tanh" else wide * torch.special.erfc(-wide / 2**0.5) / 2
    return y.to(x.dtype).contiguous()


def gelu_backward_reference(grad: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """The gradient of `x` from `grad`, that of the result; at infinities it is the limit, 0 or `grad`."""
    # farther out the formula multiplies infinities with zeros
    wide = _widen(x).clamp(-_FAR, _FAR)
    return torch.ops.aten.gelu_backward(_widen(grad), wide, approximate=approximate).to(x.dtype).contiguous()


def _check(x: Tensor, approximate: str) -> None:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"gelu: x is {x.dtype}, not a floating-point type")
    if approximate not in FORMS:
        raise RuntimeError(f"gelu: approximate is {approximate!r}, allowed are {', '.join(map(repr, FORMS))}")


def _check_backward(grad: Tensor, x: Tensor, approximate: str) -> None:
    _check(x, approximate)
    for what, of_grad, of_x in (
        ("shapes", tuple(grad.shape), tuple(x.shape)),
        ("dtypes", grad.dtype, x.dtype),
        ("devices", grad.device, x.device),
    ):
        if of_grad != of_x:
            raise RuntimeError(f"gelu_backward: {what} {of_grad} and {of_x} differ")


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.approximate = inputs[1]


gelu_backward = declare(
    "gelu_backward",
    gelu_backward_reference,
    Backend("cpu", cpu.backward, cpu.declines),
    Backend("cuda", cuda.backward, cuda.declines),
    check=_check_backward,
    fake=lambda grad, x, approximate="none": _empty(x),
)
gelu = declare(
    "gelu",
    gelu_reference,
    Backend("cpu", cpu.forward, cpu.declines),
    Backend("cuda", cuda.forward, cuda.declines),
    check=_check,
    fake=lambda x, approximate="none": _empty(x),
    setup_context=_save,
    backward=lambda ctx, grad: (gelu_backward(grad, *ctx.saved_tensors, ctx.approximate), None),
)
