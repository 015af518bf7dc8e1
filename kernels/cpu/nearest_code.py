"""Nearest code on the CPU; contracts are in `illume_fast.ops.nearest_code`.

A codebook is packed once into panels that the kernel streams, and the packed form is kept while the tensor lives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.packing import PackedForms

METRIC_CODES = {"l2": 0, "cosine": 1, "dot": 2}
PANEL = 32  # codes in a panel; csrc/include/illume_fast/nearest_code.h
BLOCK = 128  # codes whose best score is kept


@dataclass(frozen=True, eq=False)
class Packed:
    """A codebook as the kernel reads it, K padded to a multiple of BLOCK; float32 but for one.

    `codes` [K, D] as given; `panels` [K padded / PANEL, D, PANEL], centred for l2 and of unit length for cosine;
    `pairs` int32 [K padded / PANEL, ceil(D / 2), PANEL], the same rounded to bfloat16, two numbers in a word; `offsets`
    [K padded], added to a score: minus half the squared length for l2, -inf for padding and codes that are not finite;
    `longest` and `errors` [K padded / BLOCK], bounds on the lengths in a block and on what rounding took; `center` [D].
    """

    codes: Tensor
    panels: Tensor
    pairs: Tensor
    offsets: Tensor
    longest: Tensor
    errors: Tensor
    center: Tensor


def declines(x: Tensor, codebook: Tensor, metric: str = "l2") -> str | None:
    return native.declines_cpu(x, codebook)


def _packed(codebook: Tensor, metric: str) -> Packed:
    count, size = codebook.shape
    codes = codebook.detach().to(torch.float32).contiguous()
    blocks = -(-count // BLOCK)
    packed = Packed(
        codes,
        torch.empty(blocks * (BLOCK // PANEL), size, PANEL),
        torch.empty(blocks * (BLOCK // PANEL), -(-size // 2), PANEL, dtype=torch.int32),
        torch.empty(blocks * BLOCK),
        torch.empty(blocks),
        torch.empty(blocks),
        torch.zeros(size),
    )
    native._C.nearest_code_pack(
        METRIC_CODES[metric],
        codes.data_ptr(),
        count,
        size,
        packed.panels.data_ptr(),
        packed.pairs.data_ptr(),
        packed.offsets.data_ptr(),
        packed.longest.data_ptr(),
        packed.errors.data_ptr(),
        packed.center.data_ptr(),
    )
    return packed


pack = PackedForms(_packed)


def run(x: Tensor, codebook: Tensor, metric: str = "l2") -> Tensor:
    ids = torch.empty(x.shape[:-1], dtype=torch.int64)
    if ids.numel() == 0:
        return ids
    packed = pack(codebook, metric)
    x, outer, outer_stride, inner, inner_stride = as_rows(x)
    if not native._C.nearest_code(
        METRIC_CODES[metric],
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        outer,
        outer_stride,
        inner,
        inner_stride,
        x.stride(-1),
        packed.codes.data_ptr(),
        codebook.shape[0],
        codebook.shape[1],
        packed.panels.data_ptr(),
        packed.pairs.data_ptr(),
        packed.offsets.data_ptr(),
        packed.longest.data_ptr(),
        packed.errors.data_ptr(),
        packed.center.data_ptr(),
        ids.data_ptr(),
    ):
        raise MemoryError(f"nearest_code: no memory for the scores of {codebook.shape[0]} codes")
    return ids


def as_rows(x: Tensor) -> tuple[Tensor, int, int, int, int]:
    """x as outer x inner rows: (tensor, outer, its stride, inner, its stride); a view where two loops can walk it."""
    if x.dim() == 1:
        return x, 1, 0, 1, 0
    if x.is_contiguous() or x.dim() == 2:
        rows = x.numel() // x.shape[-1] if x.shape[-1] else x.shape[:-1].numel()
        return x, 1, 0, rows, x.stride(-2)
    try:
        x = x.view(x.shape[0], x.shape[1:-1].numel(), x.shape[-1])
    except RuntimeError:
        x = x.reshape(1, x.shape[:-1].numel(), x.shape[-1])
    return x, x.shape[0], x.stride(0), x.shape[1], x.stride(1)
