"""Group normalisation scaled and shifted by a map, on the CPU; the contract is in `illume_fast.ops.spatial_norm`."""

import torch
from torch import Tensor

from illume_fast.kernels import native


def declines(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-6,
    silu: bool = False,
) -> str | None:
    if x.dtype != torch.float32:
        return native.declines_cpu(x) or f"no kernel for {x.dtype}"
    (rows, columns), (code_rows, code_columns) = x.shape[-2:], scale.shape[-2:]
    if rows % code_rows or columns % code_columns:
        return f"a map of {rows} x {columns} is no multiple of {code_rows} x {code_columns}"
    return native.declines_cpu(x)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-6,
    silu: bool = False,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    weight, bias = weight.contiguous(), bias.contiguous()
    step = _cell_stride(scale)
    if step is None or step != _cell_stride(shift):
        scale, shift = (m.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for m in (scale, shift))
        step = scale.shape[1]
    native._C.spatial_norm(
        x.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        scale.data_ptr(),
        shift.data_ptr(),
        step,
        out.data_ptr(),
        x.shape[0],
        x.shape[2],
        x.shape[3],
        x.shape[1],
        scale.shape[2],
        scale.shape[3],
        groups,
        eps,
        silu,
    )
    return out


def _cell_stride(m: Tensor) -> int | None:
    """Elements between neighbouring cells of a map that lies cell after cell, channels side by side; else None."""
    (batch, channels, rows, columns), strides = m.shape, m.stride()
    step = strides[3]
    regular = (step * columns * rows, 1, step * columns, step)
    sizes = (batch, channels, rows, columns)
    same = all(size == 1 or have == want for size, have, want in zip(sizes, strides, regular, strict=True))
    return step if same and step >= channels else None
