"""`cfg_sample` from hidden states: the head is linear, so mix first and multiply once, by the legal rows only."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import cfg_head_sample as cpu
from illume_fast.kernels.cuda import cfg_head_sample as cuda
from illume_fast.ops.cfg_sample import DTYPES, cfg_sample_reference, check_noise, check_rows, split
from illume_fast.ops.dispatch import Backend, declare


def cfg_head_sample_reference(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    lo: int,
    hi: int,
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
    bias: Tensor | None = None,
    holes: list[int] | None = None,
    noise: str = "inverse",
) -> Tensor:
    """What `cfg_head_sample` calls, for one range of ids and with the parameters of `cfg_sample_reference`."""
    hidden = hidden_cond
    if hidden_uncond is not None:
        c, u = hidden_cond.float(), hidden_uncond.float()
        if guidance_rows is None:
            hidden = c if guidance == 1 else u if guidance == 0 else u + guidance * (c - u)
        else:
            g = guidance_rows[:, None]
            hidden = torch.where(g == 1, c, torch.where(g == 0, u, u + g * (c - u)))
    logits = F.linear(hidden.to(weight.dtype), weight[lo:hi], None if bias is None else bias[lo:hi])
    filters = (temperature, top_k, top_p, min_p, seed, step)
    filter_rows = (temperature_rows, top_k_rows, top_p_rows, min_p_rows, seed_rows, step_rows)
    for start, end in _pairs(holes):
        logits[:, start - lo : end - lo] = -torch.inf
    ids = cfg_sample_reference(logits, None, 1.0, *filters, None, *filter_rows, noise)
    return torch.where(ids < 0, ids, ids + lo)


def _check(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    lo: int,
    hi: int,
    *others: Any,
) -> None:
    parameters, bias, holes, noise = others[:-3], *others[-3:]
    name = "cfg_head_sample"
    if hidden_cond.dim() != 2 or weight.dim() != 2 or hidden_cond.shape[1] != weight.shape[1]:
        shapes = f"{tuple(hidden_cond.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"{name}: hidden_cond and weight have shapes {shapes}, they must be [B, H] and [V, H]")
    for label, tensor in (("hidden_cond", hidden_cond), ("weight", weight)):
        if tensor.dtype not in DTYPES:
            raise RuntimeError(f"{name}: {label} is {tensor.dtype}, it must be float32, bfloat16 or float16")
    if hidden_uncond is not None and hidden_uncond.shape != hidden_cond.shape:
        raise RuntimeError(f"{name}: shapes {tuple(hidden_cond.shape)} and {tuple(hidden_uncond.shape)} differ")
    if hidden_uncond is not None and hidden_uncond.dtype != hidden_cond.dtype:
        raise RuntimeError(f"{name}: dtypes {hidden_cond.dtype} and {hidden_uncond.dtype} differ")
    if bias is not None and (not isinstance(bias, Tensor) or bias.dim() != 1 or len(bias) != len(weight)):
        raise RuntimeError(f"{name}: bias must be [{len(weight)}], as weight has rows")
    if isinstance(bias, Tensor) and bias.dtype != weight.dtype:
        raise RuntimeError(f"{name}: dtypes of weight and bias, {weight.dtype} and {bias.dtype}, differ")
    for other in (t for t in (weight, hidden_uncond, bias) if isinstance(t, Tensor)):
        if other.device != hidden_cond.device:
            raise RuntimeError(f"{name}: devices {hidden_cond.device} and {other.device} differ")
    if not 0 <= lo <= hi <= weight.shape[0]:
        raise RuntimeError(f"{name}: rows ({lo}, {hi}) do not lie in the {weight.shape[0]} rows of weight")
    for start, end in _pairs(holes):
        if not lo <= start <= end <= hi:
            raise RuntimeError(f"{name}: rows {start} to {end} are to be left out of ({lo}, {hi})")
    check_noise(name, noise)
    check_rows(name, hidden_cond, tuple(parameters[7:]))


def _pairs(flat: list[int] | None) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True)) if flat else []


cfg_head_sample_op = declare(
    "cfg_head_sample",
    cfg_head_sample_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    check=_check,
    fake=lambda hidden_cond, *rest: hidden_cond.new_empty(hidden_cond.shape[0], dtype=torch.int64),
)


def cfg_head_sample(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    rows: tuple[int, int] | Sequence[tuple[int, int]] | Tensor,
    *,
    guidance: float | Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    seed: int | Tensor,
    step: int | Tensor,
    bias: Tensor | None = None,
    noise: str = "inverse",
) -> Tensor:
    """Draw one id per row from `weight[lo:hi] @ hidden`, hidden states mixed by guidance in float32 beforehand.

    `hidden_cond`, `hidden_uncond` [B, H] (the latter None at guidance 1); `weight` [V, H] and `bias` [V] or None, of
    one dtype; the mix is rounded to it, and so are the logits. `rows` = (lo, hi) are the ids that may be drawn; or
    several such ranges, ascending and disjoint; or an integer tensor [B, 2] with one for each row, which is read on the
    host and whose equal ranges share a product (not for compiled code). The parameters, the rule of the draw and the
    bad rows are those of `cfg_sample`; in a race ids are counted from the lowest that may be drawn.

    Returns int64 [B], ids of the whole vocabulary, -1 for bad rows.
    """
    values = {
        "guidance": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "step": step,
    }
    numbers, per_row = split("cfg_head_sample", hidden_uncond is not None, values)
    if not isinstance(rows, Tensor):
        lo, hi, holes = _hull(rows)
        return cfg_head_sample_op(hidden_cond, hidden_uncond, weight, lo, hi, *numbers, *per_row, bias, holes, noise)
    if rows.dtype.is_floating_point or tuple(rows.shape) != (hidden_cond.shape[0], 2):
        shape = f"[{hidden_cond.shape[0]}, 2]"
        raise RuntimeError(f"cfg_head_sample: rows is {rows.dtype} {tuple(rows.shape)}, it must be integers {shape}")
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (lo, hi) in enumerate(rows.tolist()):
        groups.setdefault((lo, hi), []).append(row)
    ids = hidden_cond.new_empty(hidden_cond.shape[0], dtype=torch.int64)
    for (lo, hi), members in groups.items():
        index = torch.tensor(members, device=hidden_cond.device)
        ids[index] = cfg_head_sample_op(
            hidden_cond[index],
            None if hidden_uncond is None else hidden_uncond[index],
            weight,
            lo,
            hi,
            *numbers,
            *(None if r is None else r[index] for r in per_row),
            bias,
            None,
            noise,
        )
    return ids


def _hull(rows: tuple[int, int] | Sequence[tuple[int, int]]) -> tuple[int, int, list[int] | None]:
    """The least range that holds all of `rows`, and the ends of what lies between them."""
    ends: list[Any] = [end for pair in rows for end in (pair if isinstance(pair, tuple) else (pair,))]
    if not ends or len(ends) % 2 or (len(ends) > 2 and sorted(ends) != ends):
        raise RuntimeError(f"cfg_head_sample: rows {rows} are not ascending, disjoint ranges")
    return ends[0], ends[-1], ends[1:-1] or None
