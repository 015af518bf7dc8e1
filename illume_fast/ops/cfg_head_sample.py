"""`cfg_sample` from hidden states: the head is linear, so mix first and multiply once, by the legal rows only.

A repetition penalty is not linear. Rows that have one are multiplied branch by branch, and before the branches are
mixed a conditional logit z of an id that the row has seen becomes z / penalty where z > 0, and z * penalty elsewhere,
once however often it was seen (Keskar et al., CTRL, arXiv 1909.05858, with the sign as in Hugging Face's
`RepetitionPenaltyLogitsProcessor`; before guidance, as the official code of ILLUME+ has it).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import cfg_head_sample as cpu
from illume_fast.kernels.cuda import cfg_head_sample as cuda
from illume_fast.kernels.sampling import HeadParameters, penalized
from illume_fast.ops.cfg_filters import CHAIN, DTYPES, NAMES, check_rows, each, split, split_second
from illume_fast.ops.cfg_sample import cfg_sample_reference, check_noise
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
    then_temperature: float = 1.0,
    then_top_k: int = 0,
    then_top_p: float = 1.0,
    then_temperature_rows: Tensor | None = None,
    then_top_k_rows: Tensor | None = None,
    then_top_p_rows: Tensor | None = None,
    penalty: float = 1.0,
    penalty_rows: Tensor | None = None,
    seen: Tensor | None = None,
    seen_counts: Tensor | None = None,
) -> Tensor:
    """What `cfg_head_sample` calls, for one range of ids and with the parameters of `cfg_sample_reference`."""
    dtype, bias = weight.dtype, None if bias is None else bias[lo:hi]
    filters = (temperature, top_k, top_p, min_p, seed, step)
    filter_rows = (temperature_rows, top_k_rows, top_p_rows, min_p_rows, seed_rows, step_rows)
    second = (then_temperature, then_top_k, then_top_p, then_temperature_rows, then_top_k_rows, then_top_p_rows)
    uncond = None
    if seen is not None and seen_counts is not None:
        logits = F.linear(hidden_cond.to(dtype), weight[lo:hi], bias)
        logits = penalized(logits, seen, seen_counts, each(logits, "penalty", penalty, penalty_rows), lo)
        if hidden_uncond is not None:
            uncond = F.linear(hidden_uncond.to(dtype), weight[lo:hi], bias).float()
    else:
        hidden = hidden_cond
        if hidden_uncond is not None:
            g = each(hidden_cond, "guidance", guidance, guidance_rows)[:, None]
            c, u = hidden_cond.float(), hidden_uncond.float()
            hidden = torch.where(g == 1, c, torch.where(g == 0, u, u + g * (c - u)))
        logits = F.linear(hidden.to(dtype), weight[lo:hi], bias)
        guidance, guidance_rows = 1.0, None
    for branch in (logits,) if uncond is None else (logits, uncond):  # guidance 0 looks at the second alone
        for start, end in _pairs(holes):
            branch[:, start - lo : end - lo] = -torch.inf
    ids = cfg_sample_reference(logits, uncond, guidance, *filters, guidance_rows, *filter_rows, noise, *second)
    return torch.where(ids < 0, ids, ids + lo)


def _check(
    hidden_cond: Tensor,
    hidden_uncond: Tensor | None,
    weight: Tensor,
    lo: int,
    hi: int,
    *others: Any,
) -> None:
    name, p = "cfg_head_sample", HeadParameters.of(others)
    bias, holes = p.bias, p.holes
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
    check_noise(name, p.noise)
    check_rows(name, hidden_cond, NAMES, p.per_row)
    check_rows(name, hidden_cond, ("repetition_penalty",), (p.penalty_rows,))
    _check_seen(name, hidden_cond, p)


def _check_seen(name: str, like: Tensor, p: HeadParameters) -> None:
    if p.seen is None or p.seen_counts is None:
        if p.penalty != 1 or p.penalty_rows is not None or p.seen is not p.seen_counts:
            raise RuntimeError(f"{name}: a repetition penalty needs seen ids and seen_counts; one of them is missing")
        return
    rows = like.shape[0]
    if p.seen.dim() != 2 or p.seen.shape[0] != rows or p.seen_counts.shape != (rows,):
        shapes = f"{tuple(p.seen.shape)} and {tuple(p.seen_counts.shape)}"
        raise RuntimeError(f"{name}: seen and seen_counts have shapes {shapes}, they must be [{rows}, S] and [{rows}]")
    for tensor in (p.seen, p.seen_counts):
        if tensor.dtype != torch.int64 or tensor.device != like.device:
            raise RuntimeError(f"{name}: seen is {tensor.dtype} on {tensor.device}, not torch.int64 on {like.device}")


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
    then_temperature: float | Tensor = 1.0,
    then_top_k: int | Tensor = 0,
    then_top_p: float | Tensor = 1.0,
    repetition_penalty: float | Tensor = 1.0,
    seen: Tensor | None = None,
    seen_counts: Tensor | None = None,
) -> Tensor:
    """Draw one id per row from `weight[lo:hi] @ hidden`, hidden states mixed by guidance in float32 beforehand.

    `hidden_cond`, `hidden_uncond` [B, H] (the latter None at guidance 1); `weight` [V, H] and `bias` [V] or None, of
    one dtype; the mix is rounded to it, and so are the logits. `rows` = (lo, hi) are the ids that may be drawn; or
    several such ranges, ascending and disjoint; or an integer tensor [B, 2] with one for each row, which is read on the
    host and whose equal ranges share a product (not for compiled code). The parameters, the rule of the draw and the
    bad rows are those of `cfg_sample`; in a race ids are counted from the lowest that may be drawn.

    `repetition_penalty` [B] or a number, above 0, needs `seen` int64 [B, S], the ids of each answer so far, of which
    the first `seen_counts` int64 [B] count (None, or more than S: all). Every row is then multiplied branch by branch,
    which rounds otherwise than mixing first; the module's docstring has the rule. Logits are float32 from there on.

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
    second, second_rows = split_second("cfg_head_sample", then_temperature, then_top_k, then_top_p)
    penalty, penalty_rows = 1.0, None
    if repetition_penalty.__class__ is not float or repetition_penalty != 1:
        (penalty,), (penalty_rows,) = split("cfg_head_sample", True, {"repetition_penalty": repetition_penalty})
    if seen is not None and seen_counts is None:
        seen_counts = seen.new_full(seen.shape[:1], seen.shape[1])
    if not isinstance(rows, Tensor):
        lo, hi, holes = _hull(rows)
        return cfg_head_sample_op(
            hidden_cond, hidden_uncond, weight, lo, hi, *numbers, *per_row, bias, holes, noise,
            *second, *second_rows, penalty, penalty_rows, seen, seen_counts,
        )  # fmt: skip
    if rows.dtype.is_floating_point or tuple(rows.shape) != (hidden_cond.shape[0], 2):
        shape = f"[{hidden_cond.shape[0]}, 2]"
        raise RuntimeError(f"cfg_head_sample: rows is {rows.dtype} {tuple(rows.shape)}, it must be integers {shape}")
    groups: dict[tuple[int, int], list[int]] = {}
    for row, (lo, hi) in enumerate(rows.tolist()):
        groups.setdefault((lo, hi), []).append(row)
    ids = hidden_cond.new_empty(hidden_cond.shape[0], dtype=torch.int64)
    for (lo, hi), members in groups.items():
        index = torch.tensor(members, device=hidden_cond.device)
        mine = [None if r is None else r[index] for r in (*per_row, *second_rows, penalty_rows, seen, seen_counts)]
        ids[index] = cfg_head_sample_op(
            hidden_cond[index],
            None if hidden_uncond is None else hidden_uncond[index],
            weight,
            lo,
            hi,
            *numbers,
            *mine[: len(CHAIN)],
            bias,
            None,
            noise,
            *second,
            *mine[len(CHAIN) : len(NAMES)],
            penalty,
            *mine[len(NAMES) :],
        )
    return ids


def _hull(rows: tuple[int, int] | Sequence[tuple[int, int]]) -> tuple[int, int, list[int] | None]:
    """The least range that holds all of `rows`, and the ends of what lies between them."""
    ends: list[Any] = [end for pair in rows for end in (pair if isinstance(pair, tuple) else (pair,))]
    if not ends or len(ends) % 2 or (len(ends) > 2 and sorted(ends) != ends):
        raise RuntimeError(f"cfg_head_sample: rows {rows} are not ascending, disjoint ranges")
    return ends[0], ends[-1], ends[1:-1] or None
