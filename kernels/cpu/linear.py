"""Linear layers of few rows on the CPU; contracts are in `illume_fast.ops.linear` and the ops beside it."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows


def declines(x: Tensor, *weights: Tensor | None) -> str | None:
    return native.declines_cpu(x)  # the op's check has made the others like it


def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = _output(x, weight)
    if out.numel() == 0:
        return out
    if weight.shape[1] == 0:
        return _constant(out, bias)
    x, weight, bias = in_rows(x), in_rows(weight), _packed(bias)
    native._C.linear(*_input(x), *_layer(weight, bias, out))
    return out


def run_qkv(
    x: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    v_weight: Tensor,
    q_bias: Tensor | None,
    k_bias: Tensor | None,
    v_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return run(x, q_weight, q_bias), run(x, k_weight, k_bias), run(x, v_weight, v_bias)
    q, k, v = _output(x, q_weight), _output(x, k_weight), _output(x, v_weight)
    x, q_weight, k_weight, v_weight = in_rows(x), in_rows(q_weight), in_rows(k_weight), in_rows(v_weight)
    q_bias, k_bias, v_bias = _packed(q_bias), _packed(k_bias), _packed(v_bias)
    native._C.qkv_linear(
        *_input(x), *_layer(q_weight, q_bias, q), *_layer(k_weight, k_bias, k), *_layer(v_weight, v_bias, v)
    )
    return q, k, v


def run_swiglu(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    out = _output(x, gate_weight)
    if out.numel() == 0 or x.numel() == 0:
        return out.zero_()
    x, gate_weight, up_weight = in_rows(x), in_rows(gate_weight), in_rows(up_weight)
    native._C.swiglu_linear(
        *_input(x),
        gate_weight.data_ptr(),
        gate_weight.stride(0),
        up_weight.data_ptr(),
        up_weight.stride(0),
        out.data_ptr(),
        gate_weight.shape[0],
    )
    return out


def _output(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], weight.shape[0], dtype=x.dtype)


def _constant(out: Tensor, bias: Tensor | None) -> Tensor:
    return out.zero_() if bias is None else out.copy_(bias)


def _packed(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _input(x: Tensor) -> tuple[int, int, int, int, int]:
    return native.DTYPE_CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], x.shape[1]


def _layer(weight: Tensor, bias: Tensor | None, out: Tensor) -> tuple[int, int, int, int, int]:
    address = 0 if bias is None else bias.data_ptr()
    return weight.data_ptr(), weight.stride(0), address, out.data_ptr(), weight.shape[0]
