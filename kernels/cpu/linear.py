"""A linear layer of few rows on the CPU; contracts are in `illume_fast.ops.linear`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows

MOST_ROWS = 64


def declines(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str | None:
    reason = native.declines_cpu(x)  # the op's check has made the others like it
    if reason is None and x.dtype != torch.float32 and x.numel() > MOST_ROWS * x.shape[-1]:
        return f"more than {MOST_ROWS} rows of {x.dtype}, which torch multiplies as fast"
    return reason


def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    outputs, inputs = weight.shape
    out = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)
    if out.numel() == 0:
        return out
    if inputs == 0:
        return out.zero_() if bias is None else out.copy_(bias)
    x, weight = in_rows(x), in_rows(weight)
    if bias is not None:
        bias = bias.contiguous()
    native._C.linear(
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        x.shape[0],
        weight.data_ptr(),
        weight.stride(0),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        outputs,
        inputs,
    )
    return out
