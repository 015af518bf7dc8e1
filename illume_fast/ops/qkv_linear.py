"""The three projections of attention, queries, keys and values of one x, in one call."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import linear as cpu
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.linear import check_linear, weight_gradient


def qkv_linear_reference(
    x: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    q_bias: Tensor | None = None,
    k_bias: Tensor | None = None,
    v_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(`linear(x, q_weight, q_bias)`, the same for k, the same for v), with the same bits.

    `x` is [..., K] and the weights [N, K], each with its own N. What `linear` says of dtypes, strides and of the rows'
    independence holds here. Returns contiguous [..., N] each, of x's dtype. Differentiable.
    """
    layers = ((q_weight, q_bias), (k_weight, k_bias), (v_weight, v_bias))
    q, k, v = (F.linear(x, weight, bias).contiguous() for weight, bias in layers)
    return q, k, v


def _check(
    x: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    q_bias: Tensor | None,
    k_bias: Tensor | None,
    v_bias: Tensor | None,
) -> None:
    for weight, bias in ((q_weight, q_bias), (k_weight, k_bias), (v_weight, v_bias)):
        check_linear("qkv_linear", x, weight, bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.has_bias = [bias is not None for bias in inputs[4:]]


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    x, *weights = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_x = None
    if needs[0]:
        grad_x = sum(grad @ weight for grad, weight in zip(grads, weights, strict=True))
    of_weights = [weight_gradient(grad, x) if needs[i] else None for i, grad in enumerate(grads, 1)]
    of_biases = [
        grad.reshape(-1, grad.shape[-1]).sum(0) if has and needs[i] else None
        for i, (grad, has) in enumerate(zip(grads, ctx.has_bias, strict=True), 4)
    ]
    return grad_x, *of_weights, *of_biases


qkv_linear = declare(
    "qkv_linear",
    qkv_linear_reference,
    Backend("cpu", cpu.run_qkv, cpu.declines),
    check=_check,
    fake=lambda x, *layers: tuple(x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in layers[:3]),
    setup_context=_save,
    backward=_backward,
)
