"""Products of a decoder: linear layers of few rows, and the loss of a head."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench import inputs, libraries
from illume_fast.bench.case import Case
from illume_fast.bench.checks import near
from illume_fast.ops import linear, linear_cross_entropy


def _linear(
    rows: int, outputs: int, size: int, dtype: torch.dtype, *, curve: tuple[str, str, int] | None = None
) -> Case:
    def check(result: Tensor, x: Tensor, weight: Tensor) -> None:
        expected = x.double() @ weight.double().T
        near("linear", result, expected)

    return Case(
        op="linear",
        name=f"{rows} rows, {outputs} x {size}, {dtype}",
        make=lambda: inputs.codebook(rows, outputs, size, dtype),
        ours=linear,
        peers={"torch": F.linear},
        check=check,
        bytes=dtype.itemsize * outputs * size,
        operations=2 * rows * outputs * size,
        rounded=dtype == torch.bfloat16,
        scale=curve,
    )


def _loss(rows: int, size: int, codes: int, dtype: torch.dtype, ignored: float = 0.0) -> Case:
    """Forward and backward; what is compared is the gradient of the weight."""

    def gradient(loss: Callable[..., Tensor]) -> Callable[..., Any]:
        def call(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
            x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
            return torch.autograd.grad(loss(x, weight, labels), (x, weight))[1]

        return call

    def plain(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight).float(), labels)

    def check(result: Tensor, *arguments: Tensor) -> None:
        x, weight, labels = arguments
        expected = gradient(plain)(x.float(), weight.float(), labels)
        near("linear_cross_entropy, gradient", result, expected, 1e-4 if dtype == torch.float32 else 2e-2)

    kept = round(rows * (1 - ignored))
    return Case(
        op="linear_cross_entropy",
        name=f"{rows} x {size}, {codes} codes, {dtype}" + (f", {ignored:.0%} ignored" if ignored else ""),
        make=lambda: inputs.hidden_states(rows, size, codes, dtype, ignored=ignored),
        ours=gradient(linear_cross_entropy),
        peers={"torch, all logits": gradient(plain)},
        gpu_peers={
            "torch.compile, all logits": gradient(torch.compile(plain, dynamic=False)),
            **{name: gradient(loss) for name, loss in libraries.linear_cross_entropy().items()},
        },
        check=check,
        bytes=dtype.itemsize * (2 * codes * size + 2 * rows * size),
        operations=6 * kept * size * codes,
        rounded=dtype == torch.bfloat16,
    )


CASES = [
    _linear(2, 9728, 896, torch.bfloat16),
    _linear(32, 9728, 896, torch.bfloat16),
    _linear(2, 9728, 896, torch.float32),
    _linear(2, 896, 4864, torch.bfloat16),
    _linear(16, 704, 256, torch.float32),
    _loss(1024, 2048, 16384, torch.bfloat16),
    _loss(1024, 2048, 16384, torch.bfloat16, ignored=0.7),
]
CURVES = [
    *(
        _linear(m, 9728, 896, torch.bfloat16, curve=("linear, 9728 x 896, bfloat16", "rows", m))
        for m in (1, 2, 4, 8, 16, 32, 64)
    ),
]
