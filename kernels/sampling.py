"""What the kernels that draw are told, on every device; contracts are in `illume_fast.ops.cfg_sample`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels import native

_PARAMETERS = 7  # of the first chain, with seed and step


def in_one(parameters: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], Any]:
    """The op's parameters as numbers of both chains, per-row values of both chains, and the noise."""
    n = _PARAMETERS
    first, rows, noise, second = parameters[:n], parameters[n : 2 * n], parameters[2 * n], parameters[2 * n + 1 :]
    return (*first, *second[:3]), (*rows, *second[3:]), noise


def without_draw(parameters: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers or per-row values that lack a seed and a step, with zeros in their place."""
    return (*parameters[: _PARAMETERS - 2], 0, 0, *parameters[_PARAMETERS - 2 :])


def in_rows(logits: Tensor | None) -> Any:
    """The same with rows that are contiguous."""
    return logits if logits is None or logits.stride(1) == 1 or logits.shape[1] <= 1 else logits.contiguous()


def branches(cond: Tensor, uncond: Tensor | None) -> tuple[int, int, int, int, int]:
    """What the kernels are told of the logits."""
    where = (0, 0) if uncond is None else (uncond.data_ptr(), uncond.stride(0))
    return native.DTYPE_CODES[cond.dtype], cond.data_ptr(), cond.stride(0), *where


def addresses(values: Sequence[Tensor | None]) -> list[int]:
    """Of per-row values, 0 where there are none."""
    return [0 if v is None else v.data_ptr() for v in values]


@dataclass(frozen=True, eq=False, slots=True)
class HeadParameters:
    """What `cfg_head_sample` is given behind its range of ids; numbers and per-row values are those of both chains."""

    numbers: tuple[Any, ...]
    per_row: tuple[Any, ...]
    bias: Tensor | None
    holes: list[int] | None
    noise: str
    penalty: float
    penalty_rows: Tensor | None
    seen: Tensor | None
    seen_counts: Tensor | None

    @classmethod
    def of(cls, parameters: Sequence[Any]) -> "HeadParameters":
        """In the order of the op."""
        n = 2 * _PARAMETERS
        bias, holes, noise, *rest = parameters[n:]
        numbers, per_row, noise = in_one((*parameters[:n], noise, *rest[:6]))
        return cls(numbers, per_row, bias, holes, noise, *rest[6:])


def penalized(logits: Tensor, seen: Tensor, counts: Tensor, penalty: Tensor, first: int) -> Tensor:
    """Logits [B, n] of the ids from `first` on, in float32, those of the first counts[b] ids of seen[b] made smaller.

    In tensors alone. NaN in a row whose penalty is not positive and finite.
    """
    rows, size = logits.shape
    place = seen - first
    known = torch.arange(seen.shape[1], device=seen.device) < counts[:, None]
    place = torch.where(known & (place >= 0) & (place < size), place, size)
    marked = torch.zeros(rows, size + 1, dtype=torch.bool, device=logits.device).scatter_(1, place, True)[:, :size]
    factor = torch.where((penalty > 0) & penalty.isfinite(), penalty, torch.nan)[:, None]
    z = logits.float()
    z = torch.where(marked, torch.where(z > 0, z / factor, z * factor), z)
    return torch.where(factor.isnan(), torch.nan, z)
