"""Classifier-free guidance, temperature, top-k, top-p, min-p and a draw, in one op over logits.

The rule, for one row and in this order (`cfg_sample_reference` is the same in tensors):

1. Mix: z = uncond + guidance * (cond - uncond) in float32, one rounding for the difference. Guidance 1 is cond itself
   and guidance 0 uncond itself, and the other branch is then not looked at. A token that is -inf in a branch looked at,
   or whose z overflows to -inf, is masked: it can never be drawn. NaN or +inf in a branch looked at, or a z that
   overflows to +inf, makes the row bad.
2. Temperature 0 answers the largest z, the lowest id of equals; nothing below applies.
3. Top-k: a token stays while fewer than k tokens have a larger z, so equals of the k-th stay. 0 is off.
4. Weights: w = exp((z - max z) / temperature) in float32, then rounded to a multiple of 2**-40. Sums of those are
   exact, so no order of summation, number of threads or kind of machine changes them.
5. Top-p: a token stays while the mass of the tokens with a larger z is at most top_p of the mass left by top-k. Equals
   stay or go together, and the best always stays. 1 is off.
6. Min-p: a token stays while w >= min_p, that is while its probability is at least min_p of the largest. 0 is off.
7. Draw, noise "inverse": with r the first two words of Philox 4x32-10 (key: seed, counter: step) as a 64-bit number and
   W the mass left, the answer is the first token, by id, at which the running mass exceeds floor(r * W / 2**64).
   Noise "race": each token i has a number of its own, u = (r // 2**11 + 1) / 2**53 in (0, 1], with r from the counter's
   words (step low, step high, i, 1); the answer is the token with the least -log(u) / w in float64, the lowest id of
   equals. Backends may differ where two of these agree to their last bits.

Both draw from the same distribution. With one number a row, two rows of nearly the same logits and the same noise draw
different tokens as soon as a cumulative sum has moved a little; in a race they agree unless the winner's own chances
have changed (an exponential race, the same as the maximum of Gumbel noise and logits: Maddison, Tarlow and Minka,
A* Sampling, 2014). That is what guessing ahead needs; `inverse` costs less.

A bad row, a row without a finite z, and a row whose per-row parameter is out of range answer -1.
"""

import math

import torch
from torch import Tensor

from illume_fast.kernels.cpu import cfg_sample as cpu
from illume_fast.kernels.cuda import cfg_sample as cuda
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.philox import philox, scaled

MAX_VOCABULARY = 1 << 21  # so that sums of weights fit in 62 bits
WEIGHT_SCALE = float(1 << 40)
NOISES = ("inverse", "race")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# a parameter is a number, and a tensor that takes its place where it is not None
_NAMES = ("guidance", "temperature", "top_k", "top_p", "min_p", "seed", "step")
_ROW_DTYPES = {"top_k": torch.int64, "seed": torch.int64, "step": torch.int64}


def cfg_sample_reference(
    cond: Tensor,
    uncond: Tensor | None,
    guidance: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    step: int,
    guidance_rows: Tensor | None,
    temperature_rows: Tensor | None,
    top_k_rows: Tensor | None,
    top_p_rows: Tensor | None,
    min_p_rows: Tensor | None,
    seed_rows: Tensor | None,
    step_rows: Tensor | None,
    noise: str = "inverse",
) -> Tensor:
    """What `cfg_sample` calls, every parameter twice: a number, and per-row values (or None) that replace it."""
    rows, size = cond.shape
    if rows == 0 or size == 0:
        return cond.new_full((rows,), -1, dtype=torch.int64)
    g, t, p, m = (
        torch.full((rows,), number, dtype=torch.float32, device=cond.device) if values is None else values
        for number, values in (
            (guidance, guidance_rows),
            (temperature, temperature_rows),
            (top_p, top_p_rows),
            (min_p, min_p_rows),
        )
    )
    k, key, counter = (
        torch.full((rows,), number, dtype=torch.int64, device=cond.device) if values is None else values
        for number, values in ((top_k, top_k_rows), (seed, seed_rows), (step, step_rows))
    )
    z, bad = _mixed(cond, uncond, g)
    best, argmax = z.max(1, keepdim=True)
    argmax = (z == best).int().argmax(1)
    bad |= best[:, 0].isinf()
    bad |= ~(g.isfinite() & t.isfinite() & (t >= 0) & (k >= 0) & (p >= 0) & (p <= 1) & (m >= 0) & (m <= 1))

    ordered, order = z.sort(dim=1, descending=True)
    kth = ordered.gather(1, torch.where((k <= 0) | (k > size), size, k)[:, None] - 1)
    inverse = (1 / t).clamp(max=torch.finfo(torch.float32).max)[:, None]
    w = ((z - best) * inverse).double().exp().nan_to_num(0.0)
    mass = torch.where(z >= kth, (w * WEIGHT_SCALE).round().long(), 0)

    # mass of the tokens with a strictly larger z: that before the first of its equals, in descending order
    by_size = mass.gather(1, order)
    ascending = (-ordered).contiguous()
    first = torch.searchsorted(ascending, ascending)
    before = torch.empty_like(mass).scatter_(1, order, (by_size.cumsum(1) - by_size).gather(1, first))
    limit = (p.double() * mass.sum(1).double()).floor().long()[:, None]
    stays = ((before <= limit) | (p >= 1)[:, None]) & (mass.double() >= m.double()[:, None] * WEIGHT_SCALE)

    mass = torch.where(stays, mass, 0)
    drawn = _race(mass, key, counter) if noise == "race" else _inverse(mass, key, counter)
    return torch.where(bad, -1, torch.where(t == 0, argmax, drawn))


def _inverse(mass: Tensor, key: Tensor, counter: Tensor) -> Tensor:
    running = mass.cumsum(1)
    low, high, _, _ = philox(key, counter)
    return (running > scaled(low, high, running[:, -1])[:, None]).int().argmax(1)


def _race(mass: Tensor, key: Tensor, counter: Tensor) -> Tensor:
    ids = torch.arange(mass.shape[1], device=mass.device)
    low, high, _, _ = philox(key[:, None], counter[:, None], ids, 1)
    u = ((high << 21 | low >> 11) + 1).double() * 2.0**-53
    time = torch.where(mass > 0, -u.log() / mass, torch.inf)
    return (time == time.amin(1, keepdim=True)).int().argmax(1)


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


def _check(cond: Tensor, uncond: Tensor | None, *others: float | Tensor | str | None) -> None:
    parameters, noise = others[:-1], others[-1]
    if cond.dim() != 2:
        raise RuntimeError(f"cfg_sample: cond has shape {tuple(cond.shape)}, it must be [B, V]")
    if cond.dtype not in DTYPES:
        raise RuntimeError(f"cfg_sample: cond is {cond.dtype}, it must be float32, bfloat16 or float16")
    if cond.shape[1] > MAX_VOCABULARY:
        raise RuntimeError(f"cfg_sample: {cond.shape[1]} logits a row, at most {MAX_VOCABULARY} are allowed")
    if uncond is not None:
        if uncond.shape != cond.shape:
            raise RuntimeError(f"cfg_sample: shapes {tuple(cond.shape)} and {tuple(uncond.shape)} differ")
        if uncond.dtype != cond.dtype:
            raise RuntimeError(f"cfg_sample: dtypes {cond.dtype} and {uncond.dtype} differ")
        if uncond.device != cond.device:
            raise RuntimeError(f"cfg_sample: devices {cond.device} and {uncond.device} differ")
    check_noise("cfg_sample", noise)
    check_rows("cfg_sample", cond, parameters[len(_NAMES) :])


def check_noise(op: str, noise: object) -> None:
    """Raise unless `noise` is one of `NOISES`."""
    if noise not in NOISES:
        raise RuntimeError(f"{op}: noise is {noise!r}, it must be one of {', '.join(NOISES)}")


def check_rows(op: str, like: Tensor, rows: tuple[float | Tensor | str | None, ...]) -> None:
    """Raise unless every tensor of `rows`, per-row parameters in the order of the op, fits `like` [B, ...]."""
    for name, values in zip(_NAMES, rows, strict=True):
        if values is None or not isinstance(values, Tensor):
            continue
        if values.shape != like.shape[:1]:
            raise RuntimeError(f"{op}: {name} has shape {tuple(values.shape)}, it must be [{like.shape[0]}]")
        if values.dtype != _ROW_DTYPES.get(name, torch.float32):
            raise RuntimeError(f"{op}: {name} is {values.dtype}, not {_ROW_DTYPES.get(name, torch.float32)}")
        if values.device != like.device:
            raise RuntimeError(f"{op}: devices {like.device} and {values.device} ({name}) differ")


def _declines_triton(cond: Tensor, *rest: object) -> str | None:
    return "noise 'race' has no Triton kernel" if rest[-1] == "race" else declines_triton(cond)


cfg_sample_op = declare(
    "cfg_sample",
    cfg_sample_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    Backend("triton", lazily("cfg_sample"), _declines_triton),
    check=_check,
    fake=lambda cond, *rest: cond.new_empty(cond.shape[0], dtype=torch.int64),
)


def split(
    op: str, guided: bool, values: dict[str, float | Tensor]
) -> tuple[tuple[float, ...], tuple[Tensor | None, ...]]:
    """Numbers, and tensors or None, in the order of the op; raises ValueError naming a number out of range."""
    numbers: list[float] = []
    rows: list[Tensor | None] = []
    for name in _NAMES:
        value = values[name]
        if isinstance(value, Tensor):
            numbers.append(0)
            rows.append(_row_values(op, name, value))
        else:
            numbers.append(_number(op, name, value))
            rows.append(None)
    if not guided and (rows[0] is not None or numbers[0] != 1):
        raise ValueError(f"{op}: guidance {values['guidance']} needs the unconditional branch; without it give 1.0")
    return tuple(numbers), tuple(rows)


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
    if name == "top_k":
        if value < 0:
            raise ValueError(f"{op}: top_k must be 0 (off) or positive, got {value}")
        return min(int(value), MAX_VOCABULARY)
    if name in ("top_p", "min_p"):
        if not 0 <= value <= 1:
            raise ValueError(f"{op}: {name} must lie in [0, 1], got {value}")
    elif not math.isfinite(value) or (name == "temperature" and value < 0):
        allowed = "0 (greedy) or finite and positive" if name == "temperature" else "finite"
        raise ValueError(f"{op}: {name} must be {allowed}, got {value}")
    return float(value)


def cfg_sample(
    cond: Tensor,
    uncond: Tensor | None,
    *,
    guidance: float | Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    seed: int | Tensor,
    step: int | Tensor,
    noise: str = "inverse",
) -> Tensor:
    """Mix two branches of logits by classifier-free guidance, filter, and draw one id per row.

    `cond` and `uncond` are [B, V] in float32, bfloat16 or float16, any strides; `uncond` None needs guidance 1. Each
    parameter is a number or a tensor [B]: guidance finite; temperature >= 0, 0 being argmax; top_k >= 0, 0 being off;
    top_p and min_p in [0, 1]; seed and step any 64-bit integers. The module's docstring gives the exact rule. A row's
    draw depends on its logits, parameters, seed and step alone, never on its place or company. `noise` ("inverse" or
    "race") says what is random about it: neither changes the distribution, both change what is drawn.

    Returns int64 [B]; -1 for rows with NaN, +inf or no finite logit, or with a parameter out of range in a tensor. A
    number out of range raises ValueError.
    """
    numbers, rows = split(
        "cfg_sample",
        uncond is not None,
        {
            "guidance": guidance,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
            "step": step,
        },
    )
    return cfg_sample_op(cond, uncond, *numbers, *rows, noise)
