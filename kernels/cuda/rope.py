"""Rotary position embedding on an NVIDIA GPU; contracts are in `illume_fast.ops.rope`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rope import heads_arguments, in_tokens


def declines(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return native.declines_cuda(q)  # the op's check has made the others like it


def forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    q_out = torch.empty_like(q, memory_format=torch.contiguous_format)
    k_out = torch.empty_like(k, memory_format=torch.contiguous_format)
    if cos.numel() == 0 or q.numel() + k.numel() == 0:
        return q_out, k_out
    q, k, cos, sin = in_tokens(q), in_tokens(k), cos.contiguous(), sin.contiguous()
    half = cos.shape[-1]
    native.launch_cuda(
        "rope",
        q,
        native.DTYPE_CODES[q.dtype],
        *heads_arguments(q),
        q.shape[1],
        *heads_arguments(k),
        k.shape[1],
        cos.data_ptr(),
        sin.data_ptr(),
        cos.numel() // half,
        q_out.data_ptr(),
        k_out.data_ptr(),
        q.shape[0],
        half,
    )
    return q_out, k_out
