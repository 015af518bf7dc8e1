"""Inputs that the tests check and the benchmarks time, the same for both."""

import torch
from torch import Tensor


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Gaussian numbers, drawn in float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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


def head(
    rows: int, hidden: int, vocabulary: int, dtype: torch.dtype, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of two branches [rows, hidden] and a head [vocabulary, hidden], logits of a few units."""
    gen = torch.Generator().manual_seed(seed)
    cond, uncond = (torch.randn(rows, hidden, generator=gen).to(dtype) for _ in range(2))
    weight = torch.empty(vocabulary, hidden, dtype=dtype)
    for part in weight.split(1 << 14):  # a vocabulary in float32 would take twice the memory
        part.copy_(torch.randn(part.shape, generator=gen) * (2 / hidden**0.5))
    return cond, uncond, weight


def hidden_states(
    rows: int, size: int, codes: int, dtype: torch.dtype, *, ignored: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(x [rows, size], weight [codes, size], labels [rows], a share of them -100)."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=gen).to(dtype)
    weight = (torch.randn(codes, size, generator=gen) / size**0.5).to(dtype)
    labels = torch.randint(codes, (rows,), generator=gen)
    labels[torch.rand(rows, generator=gen) < ignored] = -100
    return x, weight, labels
