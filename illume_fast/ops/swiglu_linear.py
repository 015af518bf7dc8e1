"""The first half of a SwiGLU feed-forward block, both projections and what joins them, in one call."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import linear as cpu
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.linear import check_linear, weight_gradient
from illume_fast.ops.swiglu import swiglu, swiglu_backward


def swiglu_linear_reference(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """silu(x @ gate_weight.T) * (x @ up_weight.T): `swiglu` of two `linear` layers of x, with the same bits.

    `x` is [..., K], both weights [N, K]. What `linear` says of dtypes, strides and of the rows' independence holds
    here; both products are rounded to the dtype before they meet. Returns [..., N], contiguous, of x's dtype.
    Differentiable; the gradient makes the two products again instead of keeping them.
    """
    return swiglu(F.linear(x, gate_weight), F.linear(x, up_weight))


def _check(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> None:
    for weight in (gate_weight, up_weight):
        check_linear("swiglu_linear", x, weight)
    if gate_weight.shape != up_weight.shape:
        shapes = f"{tuple(gate_weight.shape)} and {tuple(up_weight.shape)}"
        raise RuntimeError(f"swiglu_linear: gate_weight and up_weight have shapes {shapes}; they must be one")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, gate_weight, up_weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_gate, grad_up = swiglu_backward(grad, F.linear(x, gate_weight), F.linear(x, up_weight))
    return (
        grad_gate @ gate_weight + grad_up @ up_weight if needs[0] else None,
        weight_gradient(grad_gate, x) if needs[1] else None,
        weight_gradient(grad_up, x) if needs[2] else None,
    )


swiglu_linear = declare(
    "swiglu_linear",
    swiglu_linear_reference,
    Backend("cpu", cpu.run_swiglu, cpu.declines),
    check=_check,
    fake=lambda x, gate_weight, up_weight: x.new_empty(*x.shape[:-1], gate_weight.shape[0]),
    setup_context=_save,
    backward=_backward,
)
