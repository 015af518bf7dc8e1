"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the rotate-half convention of Llama and Qwen2."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import rope as cpu
from illume_fast.kernels.cuda import rope as cuda
from illume_fast.ops.dispatch import Backend, declare


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide[..., :half], wide[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rope_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q and k turned by the angles of their positions: element i of a head pairs with element i + D / 2.

    `q` is [..., T, Hq, D] and `k` [..., T, Hk, D], of one dtype (float32, bfloat16, float16; float64 on the reference
    alone), strided views allowed; `cos` and `sin` are float32 [..., T, D / 2] (float64 with float64), whose leading
    axes may be fewer than those of q. Arithmetic is in their type. Returns contiguous tensors like q and k.
    Differentiable in q and k.
    """
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    shape, half = q.shape, cos.shape
    if len(shape) < 3 or len(half) < 2 or k.shape[:-2] != shape[:-2] or k.shape[-1] != shape[-1]:
        raise RuntimeError(f"rope: q is {tuple(shape)} and k {tuple(k.shape)}, not [..., T, Hq, D] and [..., T, Hk, D]")
    if sin.shape != half:
        raise RuntimeError(f"rope: cos is {tuple(half)} and sin {tuple(sin.shape)}; they must have one shape")
    if 2 * half[-1] != shape[-1] or half[:-1] != shape[len(shape) - len(half) - 1 : -2]:
        raise RuntimeError(f"rope: q is {tuple(shape)} and cos {tuple(half)}, not [..., T, Hq, D] and [..., T, D / 2]")
    if not q.dtype.is_floating_point or k.dtype != q.dtype:
        raise RuntimeError(f"rope: q is {q.dtype} and k {k.dtype}; they must be of one floating-point type")
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if cos.dtype != wide or sin.dtype != wide:
        raise RuntimeError(f"rope: cos is {cos.dtype} and sin {sin.dtype}; with q in {q.dtype} both must be {wide}")
    if not q.device == k.device == cos.device == sin.device:
        devices = ", ".join(str(x.device) for x in (q, k, cos, sin))
        raise RuntimeError(f"rope: q, k, cos and sin are on {devices}; they must be on one device")


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin = inputs
    if cos.requires_grad or sin.requires_grad:
        raise RuntimeError("rope: cos or sin requires a gradient; only q and k can have one")
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor, Tensor, None, None]:
    cos, sin = ctx.saved_tensors
    return *rope(grad_q, grad_k, cos, -sin), None, None  # the inverse of a rotation turns back


rope = declare(
    "rope",
    rope_reference,
    Backend("cpu", cpu.forward, cpu.declines),
    Backend("cuda", cuda.forward, cuda.declines),
    check=_check,
    fake=lambda q, k, cos, sin: (_empty(q), _empty(k)),
    setup_context=_save,
    backward=_backward,
)
