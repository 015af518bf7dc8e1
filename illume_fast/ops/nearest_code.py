"""The nearest row of a codebook, by Euclidean distance, cosine or dot product."""

import torch
from torch import Tensor

from illume_fast.kernels.cpu import nearest_code as cpu
from illume_fast.kernels.cuda import nearest_code as cuda
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.dispatch import Backend, declare

METRICS = ("l2", "cosine", "dot")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# scores held at once by the reference
_CHUNK = 1 << 22


def nearest_code_reference(x: Tensor, codebook: Tensor, metric: str = "l2") -> Tensor:
    """Ids of the nearest codes, computed in float64 a few rows at a time; see `nearest_code`.

    Scores that agree to within the rounding of float64 count as ties.
    """
    codes = codebook.double()
    usable = codes.isfinite().all(1)
    codes = torch.where(usable[:, None], codes, 0.0)
    if metric == "l2":
        center = codes.sum(0) / usable.sum().clamp_min(1)
        codes = codes - center
    if metric == "cosine":
        norm = codes.norm(dim=1, keepdim=True)
        codes = torch.where(norm > 0, codes / norm, 0.0)
    half = codes.square().sum(1) / 2 if metric == "l2" else codes.new_zeros(len(codes))
    longest = codes.norm(dim=1).max() if len(codes) else codes.new_zeros(())
    rounding = (codes.shape[1] + 4) * torch.finfo(torch.float64).eps * longest
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    ids = torch.empty(len(rows), dtype=torch.int64, device=x.device)
    step = max(1, _CHUNK // max(1, len(codes)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].double()
        good = part.isfinite().all(1) & usable.any()
        part = torch.where(good[:, None], part, 0.0)
        if metric == "l2":
            part = part - center
        scores = torch.where(usable, part @ codes.T - half, -torch.inf)
        tied = scores.amax(1) - rounding * (part.norm(dim=1) + half.max().sqrt())
        ids[start : start + step] = torch.where(good, (scores >= tied[:, None]).int().argmax(1), -1)
    return ids.reshape(x.shape[:-1])


def _check(x: Tensor, codebook: Tensor, metric: str = "l2") -> None:
    if metric not in METRICS:
        raise ValueError(f"nearest_code: unknown metric {metric!r}; choose one of {', '.join(METRICS)}")
    if codebook.dim() != 2:
        raise RuntimeError(f"nearest_code: codebook has shape {tuple(codebook.shape)}, it must be [K, D]")
    if x.dim() < 1 or x.shape[-1] != codebook.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(codebook.shape)}"
        raise RuntimeError(f"nearest_code: x and codebook have shapes {shapes}, they must be [..., D] and [K, D]")
    for name, tensor in (("x", x), ("codebook", codebook)):
        if tensor.dtype not in DTYPES:
            raise RuntimeError(f"nearest_code: {name} is {tensor.dtype}, it must be float32, bfloat16 or float16")
    if x.device != codebook.device:
        raise RuntimeError(f"nearest_code: devices {x.device} and {codebook.device} differ")
    if codebook.shape[0] == 0 and x.shape[:-1].numel() > 0:
        raise RuntimeError(f"nearest_code: codebook {tuple(codebook.shape)} has no codes for x {tuple(x.shape)}")


nearest_code_op = declare(
    "nearest_code",
    nearest_code_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    Backend("triton", lazily("nearest_code"), lambda x, codebook, metric="l2": declines_triton(x, codebook)),
    check=_check,
    fake=lambda x, codebook, metric="l2": x.new_empty(x.shape[:-1], dtype=torch.int64),
)


class PackedCodebook:
    """A codebook that stays the same: a private copy, brought once into the form that the kernels read.

    `codes` [K, D] float32, bfloat16 or float16; `metric` is "l2", "cosine" or "dot". Later changes to `codes` are not
    seen: pack again.
    """

    def __init__(self, codes: Tensor, metric: str = "l2") -> None:
        self.codes = codes.detach().clone(memory_format=torch.contiguous_format)
        self.metric = metric
        _check(self.codes[:0], self.codes, metric)
        for kernel in (cuda, cpu):
            if kernel.declines(self.codes, self.codes, metric) is None:
                kernel.pack(self.codes, metric)


def nearest_code(x: Tensor, codebook: Tensor | PackedCodebook, metric: str = "l2") -> Tensor:
    """The id of the row of `codebook` nearest to each vector of `x`; ties go to the lowest id.

    `x` [..., D] and `codebook` [K, D] are float32, bfloat16 or float16, each its own, any strides; channel-first
    views (`x.movedim(1, -1)`) are read in place. `metric`: "l2" is the least Euclidean distance, "dot" the largest
    inner product, "cosine" the largest cosine, which is 0 for a zero vector or code. The answer is that of
    float64 arithmetic on every backend; N x K scores are never held. Codes with NaN or infinity are never chosen.

    A codebook's packed form is kept as long as the tensor lives and until it is written to in place (writes
    past autograd, through `.data` or NumPy, are not seen); a `PackedCodebook` keeps its own.

    Returns int64 [...]; -1 for a vector with NaN or infinity, and where no code is finite.
    """
    if isinstance(codebook, PackedCodebook):
        if metric not in ("l2", codebook.metric):
            raise ValueError(f"nearest_code: metric {metric!r}, but the codebook was packed for {codebook.metric!r}")
        metric, codebook = codebook.metric, codebook.codes
    if x.requires_grad or codebook.requires_grad:
        x, codebook = x.detach(), codebook.detach()
    return nearest_code_op(x, codebook, metric)
