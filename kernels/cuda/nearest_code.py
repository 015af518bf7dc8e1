"""Nearest code on an NVIDIA GPU; contracts are in `illume_fast.ops.nearest_code`, the method in csrc/cuda.

A codebook is rounded to bfloat16 once, and the packed form is kept while the tensor lives.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.nearest_code import METRIC_CODES, as_rows
from illume_fast.kernels.packing import PackedForms

BLOCK = 64  # codes whose best score is kept; csrc/include/illume_fast/nearest_code.h
_TOO_LONG = 1e37  # squared lengths that float32 scores do not hold


@dataclass(frozen=True, eq=False)
class Packed:
    """A codebook as the kernel reads it, K padded to a multiple of BLOCK and D to W, a multiple of 16.

    `codes` float32 [K, D] as given; `rounded` bfloat16 [K padded, W], centred for l2 and of unit length for cosine;
    float32 `offsets` [K padded], minus half the squared length for l2, -inf for padding and codes that are not finite;
    `longest` and `errors` [K padded / BLOCK], bounds on the lengths in a block and on what rounding took from them;
    `center` [D].
    """

    codes: Tensor
    rounded: Tensor
    offsets: Tensor
    longest: Tensor
    errors: Tensor
    center: Tensor
    longest_of_all: float


def declines(x: Tensor, codebook: Tensor, metric: str = "l2") -> str | None:
    return native.declines_cuda(x, codebook)


def _packed(codebook: Tensor, metric: str) -> Packed:
    codes = codebook.detach().to(torch.float32).contiguous()
    count, size = codes.shape
    usable = codes.isfinite().all(1)
    clean = torch.where(usable[:, None], codes, 0.0)
    center = torch.zeros(size, device=codes.device)
    if metric == "l2":
        center = clean.sum(0) / usable.sum().clamp_min(1)
        center = torch.where(center.isfinite().all(), center, 0.0)
    exact = clean.double() - center.double()
    lengths = exact.norm(dim=1)
    if metric == "cosine":
        exact = torch.where(lengths[:, None] > 0, exact / lengths[:, None], 0.0)
        lengths = (lengths > 0).double()
    exact = torch.where(usable[:, None], exact, 0.0)
    rounded = exact.float().bfloat16()
    fits = lengths.square() < _TOO_LONG
    offsets = -lengths.square() / 2 if metric == "l2" else torch.zeros_like(lengths)
    offsets = torch.where(usable, torch.where(fits, offsets, 0.0), -torch.inf)
    # rounded up, that the bounds hold
    longest = torch.where(usable, torch.where(fits, lengths * 1.000001, torch.inf), 0.0)
    errors = torch.where(fits, (exact - rounded.double()).norm(dim=1) * 1.000001, torch.inf)
    more, wider = -count % BLOCK, -size % 16

    def by_block(bounds: Tensor) -> Tensor:
        return F.pad(bounds, (0, more)).view(-1, BLOCK).amax(1).float()

    return Packed(
        codes=codes,
        rounded=F.pad(rounded, (0, wider, 0, more)),
        offsets=F.pad(offsets.float(), (0, more), value=-torch.inf),
        longest=by_block(longest),
        errors=by_block(errors),
        center=center,
        longest_of_all=float(longest.max()),
    )


pack = PackedForms(_packed)


def run(x: Tensor, codebook: Tensor, metric: str = "l2") -> Tensor:
    ids = torch.empty(x.shape[:-1], dtype=torch.int64, device=x.device)
    count, size = codebook.shape
    if ids.numel() == 0:
        return ids
    if size == 0:
        return ids.zero_()  # all codes are equal
    packed = pack(codebook, metric)
    x, outer, outer_stride, inner, inner_stride = as_rows(x)
    width, blocks = packed.rounded.shape[1], len(packed.longest)
    rounded = torch.empty(ids.numel(), width, dtype=torch.bfloat16, device=x.device)
    lengths, errors = torch.empty(2, ids.numel(), device=x.device)
    best = torch.empty(ids.numel(), blocks, device=x.device)
    native.launch_cuda(
        "nearest_code",
        x,
        METRIC_CODES[metric],
        native.DTYPE_CODES[x.dtype],
        x.data_ptr(),
        (outer, outer_stride, inner, inner_stride, x.stride(-1)),
        packed.codes.data_ptr(),
        (count, size, width, blocks),
        packed.rounded.data_ptr(),
        packed.offsets.data_ptr(),
        packed.longest.data_ptr(),
        packed.errors.data_ptr(),
        packed.center.data_ptr(),
        packed.longest_of_all,
        rounded.data_ptr(),
        lengths.data_ptr(),
        errors.data_ptr(),
        best.data_ptr(),
        ids.data_ptr(),
    )
    return ids
