"""Inputs that the tests check and the benchmarks time, the same for both."""

import torch
from torch import Tensor


def logits(rows: int, size: int, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two branches of logits [rows, size] that agree in part, as those of guidance do."""
    gen = torch.Generator().manual_seed(seed)
    shared, cond, uncond = (torch.randn(rows, size, generator=gen) for _ in range(3))
    return (2 * shared + cond).to(dtype), (2 * shared + uncond).to(dtype)


def codebook(
    vectors: int, codes: int, size: int, dtype: torch.dtype = torch.float32, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(x [vectors, size], codebook [codes, size]), both Gaussian: nothing is near anything, the hard case."""
    gen = torch.Generator().manual_seed(seed)
    return (
        torch.randn(vectors, size, generator=gen).to(dtype),
        torch.randn(codes, size, generator=gen).to(dtype),
    )
