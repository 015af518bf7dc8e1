"""What training asks of a codebook once the codes are found."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench import inputs
from illume_fast.bench.case import Case
from illume_fast.ops import codebook_ema, quantize, use_backend

COMMITMENT = 0.25
DECAY, EPS = 0.999, 1e-5

_Layer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _quantize(vectors: int, codes: int, size: int, gradient: str) -> Case:
    """Values, loss, and the gradients of both inputs."""

    def make() -> tuple[Tensor, ...]:
        x, book = inputs.codebook(vectors, codes, size)
        gen = torch.Generator().manual_seed(1)
        return x, book, torch.randint(codes, (vectors,), generator=gen), torch.randn(vectors, size, generator=gen)

    def trained(layer: _Layer) -> Callable[..., tuple[Tensor, ...]]:
        def step(x: Tensor, book: Tensor, ids: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                x, book = x.detach().requires_grad_(), book.detach().requires_grad_()
                values, loss = layer(x, book, ids)
                return values, loss, *torch.autograd.grad((values, loss), (x, book), (grad, torch.ones_like(loss)))

        return step

    def ours(x: Tensor, book: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        values, commitment, distortion = quantize(x, book, ids, gradient)
        return values, distortion.mean() + COMMITMENT * commitment.mean()

    def plain(x: Tensor, book: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        chosen = F.embedding(ids, book)
        loss = F.mse_loss(chosen, x.detach()) + COMMITMENT * F.mse_loss(x, chosen.detach())
        if gradient == "straight_through":
            return x + (chosen - x).detach(), loss
        return _rotated(x, chosen.detach()), loss

    def check(result: tuple[Tensor, ...], x: Tensor, book: Tensor, ids: Tensor, grad: Tensor) -> None:
        with use_backend("reference"):
            expected = trained(ours)(x.double(), book.double(), ids, grad.double())
        for actual, exact in zip(result, expected, strict=True):
            most = float(exact.detach().abs().max())
            torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5 * most)

    return Case(
        op="quantize",
        name=f"{vectors} x {size}, {codes} codes, {gradient}, with gradients",
        make=make,
        ours=trained(ours),
        peers={"torch": trained(plain), "torch.compile": trained(torch.compile(plain, dynamic=False))},
        check=check,
        bytes=4 * (8 * vectors + codes) * size,
    )


def _rotated(x: Tensor, codes: Tensor) -> Tensor:
    """The rotation trick as it is published: the rotation in two reflections, held constant."""
    with torch.no_grad():
        length, code_length = x.norm(dim=-1, keepdim=True), codes.norm(dim=-1, keepdim=True)
        e, q = x / length, codes / code_length
        r = F.normalize(e + q, dim=-1)
    turned = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * e).sum(-1, keepdim=True) * q
    return code_length / length * turned


def _ema(vectors: int, codes: int, size: int) -> Case:
    def make() -> tuple[Tensor, ...]:
        x, book = inputs.codebook(vectors, codes, size)
        ids = torch.randint(codes, (vectors,), generator=torch.Generator().manual_seed(1))
        return x, ids, torch.ones(codes), book.clone(), book

    def plain(x: Tensor, ids: Tensor, counts: Tensor, sums: Tensor, book: Tensor) -> None:
        counts.mul_(DECAY).add_(torch.bincount(ids, minlength=codes), alpha=1 - DECAY)
        sums.mul_(DECAY).index_add_(0, ids, x, alpha=1 - DECAY)
        total = counts.sum()
        book.copy_(sums / ((counts + EPS) * (total / (total + codes * EPS)))[:, None])

    def ours(*state: Tensor) -> None:
        codebook_ema(*state, DECAY, EPS)

    def check(result: None, x: Tensor, ids: Tensor, *state: Tensor) -> None:
        actual, expected = ([t.clone() for t in state] for _ in range(2))
        ours(x, ids, *actual)
        plain(x, ids, *expected)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    return Case(
        op="codebook_ema",
        name=f"{vectors} x {size} into {codes}",
        make=make,
        ours=ours,
        peers={"torch": plain, "torch.compile": torch.compile(plain, dynamic=False)},
        check=check,
        bytes=4 * (vectors + 3 * codes) * size,
    )


CASES = [
    _quantize(4096, 16384, 32, "straight_through"),
    _quantize(4096, 16384, 32, "rotation"),
    _quantize(65536, 32768, 32, "straight_through"),
    _quantize(65536, 32768, 32, "rotation"),
    _quantize(4096, 16384, 256, "rotation"),
    _ema(4096, 16384, 32),
    _ema(65536, 98304, 32),
    _ema(4096, 16384, 256),
]
