"""Same row, same bits: how many rows a matrix product needs so that a row's result does not depend on its neighbours.

A GEMM library picks its kernel by the number of rows, and kernels add up in different orders; a last bit then differs
with the batch, and now and then a sampled token. With one to three rows MKL, for example, uses other kernels than
with four, and from eight on rows of whole groups of four agree bit for bit. The engine therefore fills every batch up
to a multiple of a few rows, and this file measures which multiple is enough for the model's own matrices.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MULTIPLES = (8, 16, 32)
_LARGER = (1, 2, 3, 5, 8, 13, 16)


def linear_layers(module: object) -> list[nn.Linear]:
    """One linear layer of `module` for each shape and dtype of weight."""
    found: dict[tuple[torch.Size, torch.dtype, bool], nn.Linear] = {}
    if isinstance(module, nn.Module):
        for part in module.modules():
            if isinstance(part, nn.Linear):
                found.setdefault((part.weight.shape, part.weight.dtype, part.bias is None), part)
    return list(found.values())


def row_multiple(layers: Iterable[nn.Linear], most_rows: int) -> int:
    """The smallest tried multiple of rows for which every row of every layer gives the same bits, up to `most_rows`.

    The kernel chosen depends on shapes, dtype and threads, not on values, so random rows are a fair probe.

    Raises:
        RuntimeError: no tried multiple is enough.
    """
    layers = list(layers)
    for multiple in _MULTIPLES:
        if all(_agrees(layer, multiple, most_rows) for layer in layers):
            return multiple
    raise RuntimeError(
        f"this machine's matrix products depend on the batch at every multiple of {_MULTIPLES} rows; "
        "use EngineConfig(invariant=False), with which a sampled token may change with the batch"
    )


@torch.no_grad()
def _agrees(layer: nn.Linear, multiple: int, most_rows: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    sizes = sorted({min(multiple * n, most_rows) for n in _LARGER} | {most_rows})
    x = torch.randn(max(sizes), layer.in_features, generator=generator).to(layer.weight)
    whole = layer(x)
    return all(_equal(layer(x[:size]), whole[:size]) and _equal(layer(x[-size:]), whole[-size:]) for size in sizes)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)
