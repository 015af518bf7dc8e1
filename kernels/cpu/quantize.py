"""What follows the search for codes, on the CPU; contracts are in `illume_fast.ops.quantize`."""

from typing import NoReturn

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows


def declines(x: Tensor, codebook: Tensor) -> str | None:
    return native.declines_cpu(x, codebook)


def _arguments(x: Tensor, codebook: Tensor, ids: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """(tensors to keep until the kernel has run, what it is told of them)."""
    codes, size = codebook.shape
    rows = in_rows(x.reshape(ids.numel(), size))
    codebook, ids = codebook.contiguous(), ids.contiguous()
    told = (
        native.DTYPE_CODES[x.dtype],
        rows.data_ptr(),
        rows.stride(0),
        native.DTYPE_CODES[codebook.dtype],
        codebook.data_ptr(),
        ids.data_ptr(),
        ids.numel(),
        size,
        codes,
    )
    return (rows, codebook, ids), told


def _refuse(op: str, ids: Tensor, codes: int, bad: int) -> NoReturn:
    raise RuntimeError(f"{op}: ids must lie in [0, {codes}), got {int(ids.reshape(-1)[bad])}")


def forward(x: Tensor, codebook: Tensor, ids: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    error, error_again = torch.empty(ids.shape), torch.empty(ids.shape)
    _kept, told = _arguments(x, codebook, ids)
    bad = native._C.quantize_forward(*told, values.data_ptr(), error.data_ptr(), error_again.data_ptr())
    if bad >= 0:
        _refuse("quantize", ids, len(codebook), bad)
    return values, error, error_again


def backward(
    grad: Tensor | None, error_grad: Tensor | None, x: Tensor, codebook: Tensor, ids: Tensor, gradient: str
) -> Tensor:
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad, error_grad = (t if t is None else t.contiguous() for t in (grad, error_grad))
    _kept, told = _arguments(x, codebook, ids)
    bad = native._C.quantize_backward(
        *told,
        gradient == "rotation",
        0 if grad is None else grad.data_ptr(),
        0 if error_grad is None else error_grad.data_ptr(),
        grad_x.data_ptr(),
    )
    if bad >= 0:
        _refuse("quantize_backward", ids, len(codebook), bad)
    return grad_x


def codebook_gradient(error_grad: Tensor, x: Tensor, codebook: Tensor, ids: Tensor) -> Tensor:
    grad_codebook = torch.empty_like(codebook, memory_format=torch.contiguous_format)
    error_grad = error_grad.contiguous()
    ends = torch.empty(len(codebook), dtype=torch.int64)
    order = torch.empty(ids.numel(), dtype=torch.int64)
    _kept, told = _arguments(x, codebook, ids)
    bad = native._C.quantize_codebook_gradient(
        *told, error_grad.data_ptr(), ends.data_ptr(), order.data_ptr(), grad_codebook.data_ptr()
    )
    if bad >= 0:
        _refuse("quantize_codebook_gradient", ids, len(codebook), bad)
    return grad_codebook
