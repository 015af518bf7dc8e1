"""Group normalisation whose scale and shift are read from a map of codes (MoVQ; Zheng et al., arXiv 2209.09002)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import spatial_norm as cpu
from illume_fast.ops.dispatch import Backend, declare


def spatial_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-6,
    silu: bool = False,
) -> Tensor:
    """group_norm(x) * scale + shift, where each code serves the pixels nearest to it; through silu if asked for.

    `x` [B, C, H, W], `weight` and `bias` [C] of the norm, `scale` and `shift` [B, C, h, w] have one floating-point
    dtype and device, and any strides; `groups` divides C. Means and variances are those of a picture's group. On the
    CPU (float32) a picture's bits depend neither on the others nor on the number of threads.

    Returns [B, C, H, W] of x's dtype, channels last. For inference: not differentiable.
    """
    size = tuple(x.shape[-2:])
    scale, shift = (F.interpolate(m, size=size) if m.shape[-2:] != size else m for m in (scale, shift))
    out = F.group_norm(x, groups, weight, bias, eps) * scale + shift
    return (F.silu(out) if silu else out).contiguous(memory_format=torch.channels_last)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-6,
    silu: bool = False,
) -> None:
    if x.dim() != 4 or 0 in x.shape:
        raise RuntimeError(f"spatial_norm: x has shape {tuple(x.shape)}, it must be [B, C, H, W] and not empty")
    batch, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        raise RuntimeError(f"spatial_norm: {channels} channels do not make {groups} groups")
    for name, part in (("weight", weight), ("bias", bias)):
        if part.shape != (channels,):
            raise RuntimeError(f"spatial_norm: {name} has shape {tuple(part.shape)}, it must be [{channels}]")
    for name, part in (("scale", scale), ("shift", shift)):
        if part.dim() != 4 or part.shape[:2] != (batch, channels) or 0 in part.shape or part.shape != scale.shape:
            wanted = f"scale and shift must be [{batch}, {channels}, h, w]"
            raise RuntimeError(f"spatial_norm: {name} has shape {tuple(part.shape)}, {wanted}")
    for part in (weight, bias, scale, shift):
        if part.dtype != x.dtype:
            raise RuntimeError(f"spatial_norm: dtypes {x.dtype} and {part.dtype} differ")
        if part.device != x.device:
            raise RuntimeError(f"spatial_norm: devices {x.device} and {part.device} differ")
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"spatial_norm: x is {x.dtype}, not a floating-point type")


spatial_norm = declare(
    "spatial_norm",
    spatial_norm_reference,
    Backend("cpu", cpu.run, cpu.declines),
    check=_check,
    fake=lambda x, *rest: torch.empty_like(x, memory_format=torch.channels_last),
)
