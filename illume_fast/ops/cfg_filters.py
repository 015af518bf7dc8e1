"""What `cfg_sample` and the ops beside it share: the filters of its rule in tensors, and the checks of its parameters.

The rule itself stands in `illume_fast.ops.cfg_sample`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_VOCABULARY = 1 << 21  # so that sums of weights fit in 62 bits
WEIGHT_SCALE = float(1 << 40)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# a parameter is a number, and a tensor that takes its place where it is not None
CHAIN = ("guidance", "temperature", "top_k", "top_p", "min_p", "seed", "step")
SECOND_CHAIN = ("then_temperature", "then_top_k", "then_top_p")
NAMES = (*CHAIN, *SECOND_CHAIN)
_OFF, _NO_ROWS = (1.0, 0, 1.0), (None, None, None)
_ROW_DTYPES = dict.fromkeys(("top_k", "seed", "step", "then_top_k"), torch.int64)


def each(like: Tensor, name: str, number: float, values: Tensor | None) -> Tensor:
    """The parameter's value for each row of `like` [B, ...]."""
    if values is not None:
        return values
    return torch.full((len(like),), number, dtype=_ROW_DTYPES.get(name, torch.float32), device=like.device)


def weights_reference(
    cond: Tensor,
    uncond: Tensor | None,
    guidance: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    then_temperature: Tensor,
    then_top_k: Tensor,
    then_top_p: Tensor,
) -> Tensor:
    """int64 [B, V]: what `cfg_sample` draws with, in multiples of 2**-40; -1 in the whole of a row without a draw."""
    z, bad = _mixed(cond, uncond, guidance)
    best = z.max(1, keepdim=True).values
    bad |= best[:, 0].isinf()
    for value, good in (
        (guidance, guidance.isfinite()),
        (temperature, temperature >= 0),
        (then_temperature, then_temperature > 0),
        (top_k, top_k >= 0),
        (then_top_k, then_top_k >= 0),
        *((p, (p >= 0) & (p <= 1)) for p in (top_p, min_p, then_top_p)),
    ):
        bad |= ~(good & value.isfinite())

    ordered, order = z.sort(dim=1, descending=True)
    alive, mass = _chain(z, ordered, order, torch.ones_like(z, dtype=torch.bool), temperature, top_k, top_p)
    heat = temperature * then_temperature
    _, mass = _chain(z, ordered, order, alive, heat, then_top_k, then_top_p)
    mass = torch.where(mass.double() >= min_p.double()[:, None] * WEIGHT_SCALE, mass, 0)
    first = (z == best).int().argmax(1, keepdim=True)
    argmax = torch.zeros_like(mass).scatter_(1, first, int(WEIGHT_SCALE))
    return torch.where(bad[:, None], -1, torch.where((temperature == 0)[:, None], argmax, mass))


def _chain(
    z: Tensor, ordered: Tensor, order: Tensor, alive: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the tokens that are alive stay so after top-k and top-p, and their weights int64, 0 for the others.

    `ordered` and `order` are z, falling, and its places; what is alive is a prefix of that.
    """
    size = z.shape[1]
    kth = ordered.gather(1, torch.where((top_k <= 0) | (top_k > size), size, top_k)[:, None] - 1)
    alive = alive & (z >= kth)
    inverse = (1 / temperature).clamp(max=torch.finfo(torch.float32).max)[:, None]
    w = ((z - ordered[:, :1]) * inverse).double().exp().nan_to_num(0.0)
    mass = torch.where(alive, (w * WEIGHT_SCALE).round().long(), 0)

    # mass of the tokens with a strictly larger z: that before the first of its equals, in descending order
    by_size = mass.gather(1, order)
    ascending = (-ordered).contiguous()
    first = torch.searchsorted(ascending, ascending)
    before = torch.empty_like(mass).scatter_(1, order, (by_size.cumsum(1) - by_size).gather(1, first))
    limit = (top_p.double() * mass.sum(1).double()).floor().long()[:, None]
    alive = alive & ((before <= limit) | (top_p >= 1)[:, None])
    return alive, torch.where(alive, mass, 0)


def _mixed(cond: Tensor, uncond: Tensor | None, guidance: Tensor) -> tuple[Tensor, Tensor]:
    """Mixed logits, float32, -inf where masked; and which rows are bad, bool."""
    c = cond.float()
    if uncond is None:
        return torch.where(c.isnan(), torch.inf, c), (c.isnan() | (c == torch.inf)).any(1)
    u, g = uncond.float(), guidance[:, None]
    c = torch.where(g == 0, u, c)
    u = torch.where(g == 1, c, u)
    # in double: the product is exact, so this rounds once, as a fused multiply-add does
    z = (u.double() + g.double() * (c - u).double()).float()
    z = torch.where(u == c, c, z)
    z = torch.where((c == -torch.inf) | (u == -torch.inf), -torch.inf, z)
    broken = c.isnan() | u.isnan() | (c == torch.inf) | (u == torch.inf) | z.isnan() | (z == torch.inf)
    return torch.where(broken, torch.inf, z), broken.any(1)


def check_logits(op: str, cond: Tensor, uncond: Tensor | None) -> None:
    """Raise unless the branches are logits [B, V] that fit each other."""
    if cond.dim() != 2:
        raise RuntimeError(f"{op}: cond has shape {tuple(cond.shape)}, it must be [B, V]")
    if cond.dtype not in DTYPES:
        raise RuntimeError(f"{op}: cond is {cond.dtype}, it must be float32, bfloat16 or float16")
    if cond.shape[1] > MAX_VOCABULARY:
        raise RuntimeError(f"{op}: {cond.shape[1]} logits a row, at most {MAX_VOCABULARY} are allowed")
    if uncond is None:
        return
    if uncond.shape != cond.shape:
        raise RuntimeError(f"{op}: shapes {tuple(cond.shape)} and {tuple(uncond.shape)} differ")
    if uncond.dtype != cond.dtype:
        raise RuntimeError(f"{op}: dtypes {cond.dtype} and {uncond.dtype} differ")
    if uncond.device != cond.device:
        raise RuntimeError(f"{op}: devices {cond.device} and {uncond.device} differ")


def check_rows(op: str, like: Tensor, names: Sequence[str], rows: Sequence[Any]) -> None:
    """Raise unless every tensor of `rows`, per-row values of the parameters `names`, fits `like` [B, ...]."""
    for name, values in zip(names, rows, strict=True):
        if values is None or not isinstance(values, Tensor):
            continue
        if values.shape != like.shape[:1]:
            raise RuntimeError(f"{op}: {name} has shape {tuple(values.shape)}, it must be [{like.shape[0]}]")
        if values.dtype != _ROW_DTYPES.get(name, torch.float32):
            raise RuntimeError(f"{op}: {name} is {values.dtype}, not {_ROW_DTYPES.get(name, torch.float32)}")
        if values.device != like.device:
            raise RuntimeError(f"{op}: devices {like.device} and {values.device} ({name}) differ")


def split(
    op: str, guided: bool, values: dict[str, float | Tensor]
) -> tuple[tuple[float, ...], tuple[Tensor | None, ...]]:
    """Numbers, and tensors or None, of parameters of which guidance is the first.

    Raises:
        ValueError: a number is out of range, which the message names.
    """
    numbers: list[float] = []
    rows: list[Tensor | None] = []
    for name, value in values.items():
        if isinstance(value, Tensor):
            numbers.append(0)
            rows.append(_row_values(op, name, value))
        else:
            numbers.append(_number(op, name, value))
            rows.append(None)
    if not guided and (rows[0] is not None or numbers[0] != 1):
        raise ValueError(f"{op}: guidance {values['guidance']} needs the unconditional branch; without it give 1.0")
    return tuple(numbers), tuple(rows)


def split_second(
    op: str, temperature: float | Tensor, top_k: int | Tensor, top_p: float | Tensor
) -> tuple[tuple[float, ...], tuple[Tensor | None, ...]]:
    """As `split`, of the second chain, which is off as a rule; that is seen at once."""
    if temperature.__class__ is float and top_k.__class__ is int and top_p.__class__ is float:
        if temperature == 1 and top_k == 0 and top_p == 1:
            return _OFF, _NO_ROWS
    values = dict(zip(SECOND_CHAIN, (temperature, top_k, top_p), strict=True))
    return split(op, True, values)


def _row_values(op: str, name: str, value: Tensor) -> Tensor:
    dtype = _ROW_DTYPES.get(name, torch.float32)
    if value.dtype == dtype:
        return value
    if dtype == torch.int64:
        if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(f"{op}: {name} is {value.dtype}, it must be an integer tensor")
        return value.view(torch.int64) if value.dtype == torch.uint64 else value.to(torch.int64)
    return value.to(dtype)


def _number(op: str, name: str, value: float) -> float:
    if name in ("seed", "step"):
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"{op}: {name} must fit in 64 bits, got {value}")
        return int(value) if value < 1 << 63 else int(value) - (1 << 64)
    if name in ("top_k", "then_top_k"):
        if value < 0:
            raise ValueError(f"{op}: {name} must be 0 (off) or positive, got {value}")
        return min(int(value), MAX_VOCABULARY)
    if name in ("top_p", "min_p", "then_top_p"):
        if not 0 <= value <= 1:
            raise ValueError(f"{op}: {name} must lie in [0, 1], got {value}")
    elif name in ("then_temperature", "repetition_penalty"):
        if not 0 < value < math.inf:
            raise ValueError(f"{op}: {name} must be finite and positive, got {value}")
    elif not math.isfinite(value) or (name == "temperature" and value < 0):
        allowed = "0 (greedy) or finite and positive" if name == "temperature" else "finite"
        raise ValueError(f"{op}: {name} must be {allowed}, got {value}")
    return float(value)
