"""Codebook search and codebook statistics."""

from typing import Any

import torch
from torch import Tensor

from illume_fast.bench import inputs, libraries
from illume_fast.bench.case import Case
from illume_fast.ops import PackedCodebook, code_statistics, nearest_code


def _nearest(
    vectors: int, codes: int, size: int, *, kept: bool = True, curve: tuple[str, str, int] | None = None
) -> Case:
    def ours(x: Tensor, book: Tensor, packed: PackedCodebook) -> Tensor:
        # book[:] is a tensor of its own, whose packed form nothing has kept
        return nearest_code(x, packed if kept else book[:])

    def check(ids: Tensor, x: Tensor, book: Tensor, packed: Any) -> None:
        near = (x - book[ids]).double().square().sum(1)
        nearest = torch.cdist(x.double(), book.double()).amin(1).square()
        worst = ((near - nearest) / nearest).max().item()
        if worst > 1e-5:
            raise RuntimeError(f"nearest_code: a code is {worst:.1e} farther than the nearest")

    def by_product(x: Tensor, book: Tensor, _: Any) -> Tensor:
        return torch.addmm(book.square().sum(1), x, book.T, alpha=-2).argmin(1)

    return Case(
        op="nearest_code",
        name=f"{vectors} x {codes} x {size}" + ("" if kept else ", new codebook"),
        make=lambda: inputs.codebook(vectors, codes, size),
        prepare=lambda x, book: (x, book, PackedCodebook(book)),
        ours=ours,
        peers={
            "torch.cdist + argmin": lambda x, book, _: torch.cdist(x, book).argmin(1),
            "torch.addmm + argmin": by_product,
        },
        gpu_peers={"torch.compile": torch.compile(by_product, dynamic=False), **libraries.nearest_code()},
        outside={"faiss": ("faiss_search",), "faiss (threshold 20)": ("faiss_search", "20")},
        check=check,
        bytes=4 * (vectors + codes) * size,
        operations=2 * vectors * codes * size,
        rounded=True,  # nearly all codes can be ruled out by rounded numbers
        scale=curve,
    )


def _statistics(vectors: int, codes: int, size: int) -> Case:
    def make() -> tuple[Tensor, Tensor]:
        x, _ = inputs.codebook(vectors, 1, size)
        return x, torch.randint(codes, (vectors,), generator=torch.Generator().manual_seed(0))

    def check(result: tuple[Tensor, Tensor], x: Tensor, ids: Tensor) -> None:
        torch.testing.assert_close(result[1], x.new_zeros(codes, size).index_add_(0, ids, x))

    return Case(
        op="code_statistics",
        name=f"{vectors} x {size} into {codes}",
        make=make,
        ours=lambda x, ids: code_statistics(x, ids, codes),
        peers={
            "torch index_add": lambda x, ids: (
                torch.bincount(ids, minlength=codes),
                x.new_zeros(codes, size).index_add_(0, ids, x),
            ),
            "one-hot product": lambda x, ids: torch.nn.functional.one_hot(ids, codes).float().T @ x,
        },
        check=check,
        bytes=4 * (vectors + codes) * size,
    )


CASES = [
    _nearest(1024, 32768, 32),
    _nearest(1024, 32768, 32, kept=False),
    _nearest(1024, 98304, 32),
    _nearest(256, 32768, 32),
    _nearest(1024, 16384, 8),
    _nearest(1024, 16384, 256),
    _nearest(256, 16384, 1536),
    _statistics(4096, 4096, 64),
]
CURVES = [
    *(
        _nearest(n, 32768, 32, curve=("nearest_code, 32768 codes of 32", "vectors", n))
        for n in (16, 64, 256, 1024, 4096)
    ),
    *(
        _nearest(1024, k, 32, curve=("nearest_code, 1024 vectors of 32", "codes", k))
        for k in (1024, 8192, 32768, 98304)
    ),
]
