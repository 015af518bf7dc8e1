"""Same row, same bits: how many rows a matrix product needs so that a row's result does not depend on its neighbours.

A GEMM library picks its kernel by the number of rows, and kernels add up in different orders; a last bit then differs
with the batch, and now and then a sampled token. With one to three rows MKL, for example, uses other kernels than
with four, and from eight on rows of whole groups of four agree bit for bit. The engine therefore fills every batch up
to a multiple of a few rows, and this file measures which multiple is enough for the model's own matrices. The CPU
kernel of `linear` computes each row by itself, so that there the multiple is 1.

The kernels of attention, norms and drawing compute a row by itself. Attention's reference, which runs where there is no
compiled extension, does not: there a row is the same up to rounding only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from illume_fast.model.layers import are_plain, joined
from illume_fast.ops.linear import linear

_MULTIPLES = (1, 8, 16, 32)
_TIMES = (*range(1, 10), 11, 13, 16, 21, 32)
_HEAD_ROWS = 1024


@dataclass(frozen=True)
class Product:
    """A matrix product of rows [M, width] of `dtype`."""

    run: Callable[[Tensor], Tensor]
    width: int
    dtype: torch.dtype
    device: torch.device


def products_of(decoder: object, head: Tensor) -> list[Product]:
    """One product for each kind of linear layer (shape, dtype, bias) in `decoder`, layers whose weights lie together
    being one, and one with a part of the head."""
    found: dict[tuple[torch.Size, torch.dtype, bool], Product] = {}
    for part in decoder.modules() if isinstance(decoder, nn.Module) else ():
        if isinstance(part, nn.Linear):
            weight = part.weight
            kind = weight.shape, weight.dtype, part.bias is None
            found.setdefault(kind, Product(part, part.in_features, weight.dtype, weight.device))
        for whole in _joined_below(part):
            product = Product(partial(linear, weight=whole), whole.shape[1], whole.dtype, whole.device)
            found.setdefault((whole.shape, whole.dtype, True), product)
    part_of_head = partial(linear, weight=head[:_HEAD_ROWS])
    return [*found.values(), Product(part_of_head, head.shape[1], head.dtype, head.device)]


def _joined_below(module: nn.Module) -> Iterator[Tensor]:
    weights = [layer.weight for layer in module.children() if isinstance(layer, nn.Linear) and are_plain(layer)]
    for count in range(2, len(weights) + 1):
        whole = joined(weights[:count])
        if whole is not None:
            yield whole


def row_multiple(products: Iterable[Product], most_rows: int) -> int:
    """The smallest tried multiple of rows for which every row of every product has the same bits, up to `most_rows`.

    The kernel chosen depends on shapes, dtype and threads, not on values, so random rows are a fair probe.

    Raises:
        RuntimeError: no tried multiple is enough.
    """
    products = list(products)
    for multiple in _MULTIPLES:
        if all(_agrees(product, multiple, most_rows) for product in products):
            return multiple
    raise RuntimeError(
        f"this machine's matrix products depend on the batch at every multiple of {_MULTIPLES} rows; "
        "use EngineConfig(invariant=False), with which a drawn token may change with the batch"
    )


@torch.no_grad()
def _agrees(product: Product, multiple: int, most_rows: int) -> bool:
    sizes = {multiple * n for n in _TIMES} | {-(-most_rows // multiple) * multiple}
    rows = torch.randn(max(sizes), product.width, generator=torch.Generator().manual_seed(0))
    x = rows.to(product.device, product.dtype)
    # weights with NaN in them agree too: their requests fail one by one, with their names
    whole = product.run(x).nan_to_num_()
    return all(
        torch.equal(product.run(x[a:b]).nan_to_num_(), whole[a:b]) for n in sizes for a, b in ((0, n), (-n, None))
    )
