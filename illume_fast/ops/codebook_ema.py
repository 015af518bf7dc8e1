"""A codebook that follows the vectors that choose it, by exponential moving averages instead of a gradient."""

import torch
from torch import Tensor

from illume_fast.kernels.cpu import codebook_ema as cpu
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.code_statistics import code_statistics_reference
from illume_fast.ops.dispatch import Backend, declare

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def codebook_ema_reference(
    x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, codebook: Tensor, decay: float = 0.99, eps: float = 1e-5
) -> None:
    """One step of a codebook of moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1); in place.

    With n_k and m_k, how many rows of `x` chose code k and their sum,

        counts[k] = decay * counts[k] + (1 - decay) * n_k
        sums[k] = decay * sums[k] + (1 - decay) * m_k
        codebook[k] = sums[k] / smoothed[k],  smoothed[k] = (counts[k] + eps) * total / (total + K * eps)

    where total is the sum of the counts: Laplace smoothing, as in VQ-VAE-2 (arXiv 1906.00446), so that a code which
    nobody chooses is divided by no zero. Where smoothed[k] is 0 all the same (no counts at all, or no eps) the code
    stays. Begin with counts of 1 and the codebook as the sums.

    `x` [N, D] is float32, bfloat16 or float16; `ids` int64 [N] in [-1, K), where -1 (a bad row, as `nearest_code`
    answers) leaves the row out. `counts` [K] and `sums` [K, D] are float32, `codebook` [K, D] any of x's types.
    Arithmetic is in float64, rounded once; the result is the same for every number of threads. Nothing here has a
    gradient: detach what asks for one.

    Raises:
        RuntimeError: an id is out of range; nothing is changed then. The Triton kernel, to save waiting for the GPU,
            leaves such a row out instead.
    """
    K = len(codebook)
    if ids.numel() > 0:
        low, high = (int(i) for i in torch.aminmax(ids))
        if low < -1 or high >= K:
            raise RuntimeError(f"codebook_ema: ids must lie in [-1, {K}), got {low if low < -1 else high}")
    chosen, added = code_statistics_reference(x, ids, K)
    counts.copy_(decay * counts.double() + (1 - decay) * chosen.double())
    sums.copy_(decay * sums.double() + (1 - decay) * added.double())
    smoothed = smoothed_counts(counts, eps)[:, None]
    codebook.copy_(torch.where(smoothed == 0, codebook.double(), sums.double() / smoothed))


def smoothed_counts(counts: Tensor, eps: float) -> Tensor:
    """What the sums are divided by, float64 [K]."""
    wide = counts.double()
    total = wide.sum()
    return (wide + eps) * torch.where(total == 0, 0.0, total / (total + len(counts) * eps))


def _check(x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, codebook: Tensor, decay: float, eps: float) -> None:
    if x.dim() != 2 or ids.dim() != 1 or x.shape[0] != ids.shape[0]:
        shapes = f"{tuple(x.shape)} and {tuple(ids.shape)}"
        raise RuntimeError(f"codebook_ema: x and ids have shapes {shapes}, they must be [N, D] and [N]")
    if codebook.dim() != 2 or codebook.shape[1] != x.shape[1]:
        raise RuntimeError(f"codebook_ema: codebook is {tuple(codebook.shape)}, it must be [K, {x.shape[1]}]")
    if sums.shape != codebook.shape or counts.shape != codebook.shape[:1]:
        shapes = f"{tuple(counts.shape)} and {tuple(sums.shape)}"
        raise RuntimeError(f"codebook_ema: counts and sums are {shapes}, for a codebook of {tuple(codebook.shape)}")
    for name, tensor, allowed in (
        ("x", x, DTYPES),
        ("ids", ids, (torch.int64,)),
        ("counts", counts, (torch.float32,)),
        ("sums", sums, (torch.float32,)),
        ("codebook", codebook, DTYPES),
    ):
        if tensor.dtype not in allowed:
            names = " or ".join(str(dtype) for dtype in allowed)
            raise RuntimeError(f"codebook_ema: {name} is {tensor.dtype}, it must be {names}")
        if tensor.device != x.device:
            raise RuntimeError(f"codebook_ema: x is on {x.device} and {name} on {tensor.device}")
    if not (0 <= decay <= 1 and eps >= 0):
        raise RuntimeError(f"codebook_ema: decay is {decay} and eps {eps}; they must lie in [0, 1] and be at least 0")


codebook_ema = declare(
    "codebook_ema",
    codebook_ema_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("triton", lazily("codebook_ema"), lambda x, ids, counts, sums, codebook, *rest: declines_triton(x, sums)),
    check=_check,
    fake=lambda *args: None,
    mutates=("counts", "sums", "codebook"),
)
