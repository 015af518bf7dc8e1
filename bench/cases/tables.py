"""Rows of tables: embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench.case import Case
from illume_fast.bench.inputs import randn
from illume_fast.ops import gather_rows


def _indexed(table: Tensor, index: Tensor) -> Tensor:
    return table[index]


def _same(result: Tensor, table: Tensor, index: Tensor) -> None:
    if not torch.equal(result, table[index]):
        raise RuntimeError("gather_rows: rows differ from table[index]")


def _gather_rows(count: int, rows: int, width: int, dtype: torch.dtype) -> Case:
    """`count` rows of a table of `rows`, none of them missing, which the peers could not say."""

    def make() -> tuple[Tensor, Tensor]:
        index = torch.randint(rows, (count,), generator=torch.Generator().manual_seed(1))
        return randn(rows, width, dtype=dtype), index

    return Case(
        op="gather_rows",
        name=f"{count} of {rows} x {width}, {dtype}",
        make=make,
        ours=gather_rows,
        peers={
            "torch indexing": _indexed,
            "torch index_select": lambda table, index: table.index_select(0, index),
            "F.embedding": lambda table, index: F.embedding(index, table),
            "torch.compile": torch.compile(_indexed, dynamic=False),
        },
        check=_same,
        bytes=2 * count * width * dtype.itemsize,
    )


CASES = [
    _gather_rows(2, 65536, 256, torch.float32),
    _gather_rows(128, 65536, 256, torch.float32),
    _gather_rows(128, 131072, 896, torch.bfloat16),
    _gather_rows(4096, 131072, 896, torch.bfloat16),
]
