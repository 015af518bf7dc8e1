"""The probabilities that `cfg_sample` draws with, from the same kernels; the rule stands there."""

import torch
from torch import Tensor

from illume_fast.kernels.cpu import cfg_sample as cpu
from illume_fast.kernels.cuda import cfg_sample as cuda
from illume_fast.ops.cfg_filters import NAMES, check_logits, check_rows, each, split, weights_reference
from illume_fast.ops.dispatch import Backend, declare

_NAMES = tuple(name for name in NAMES if name not in ("seed", "step"))


def cfg_weights_reference(
    cond: Tensor,
    uncond: Tensor | None,
    guidance: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    then_temperature: float,
    then_top_k: int,
    then_top_p: float,
    guidance_rows: Tensor | None,
    temperature_rows: Tensor | None,
    top_k_rows: Tensor | None,
    top_p_rows: Tensor | None,
    min_p_rows: Tensor | None,
    then_temperature_rows: Tensor | None,
    then_top_k_rows: Tensor | None,
    then_top_p_rows: Tensor | None,
) -> Tensor:
    """What `cfg_probabilities` divides: int64 [B, V], -1 in the whole of a row without a draw."""
    if cond.numel() == 0:
        return torch.empty(cond.shape, dtype=torch.int64, device=cond.device)
    numbers = guidance, temperature, top_k, top_p, min_p, then_temperature, then_top_k, then_top_p
    rows = (guidance_rows, temperature_rows, top_k_rows, top_p_rows, min_p_rows,
            then_temperature_rows, then_top_k_rows, then_top_p_rows)  # fmt: skip
    values = [each(cond, *parameter) for parameter in zip(_NAMES, numbers, rows, strict=True)]
    return weights_reference(cond, uncond, *values)


def _check(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | None) -> None:
    check_logits("cfg_probabilities", cond, uncond)
    check_rows("cfg_probabilities", cond, _NAMES, parameters[len(_NAMES) :])


cfg_weights_op = declare(
    "cfg_weights",
    cfg_weights_reference,
    Backend("cpu", cpu.weights, cpu.declines),
    Backend("cuda", cuda.weights, cuda.declines),
    check=_check,
    fake=lambda cond, *rest: cond.new_empty(cond.shape, dtype=torch.int64),
)


def cfg_probabilities(
    cond: Tensor,
    uncond: Tensor | None,
    *,
    guidance: float | Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    then_temperature: float | Tensor = 1.0,
    then_top_k: int | Tensor = 0,
    then_top_p: float | Tensor = 1.0,
) -> Tensor:
    """How likely `cfg_sample` is to draw each id, given the same arguments.

    Returns float64 [B, V]: 0 where a token is masked or filtered out, each row's sum 1; at temperature 0 all on the id
    that is taken. NaN in the whole of a row for which `cfg_sample` answers -1. Raises as `cfg_sample` does.
    """
    values = {
        "guidance": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "then_temperature": then_temperature,
        "then_top_k": then_top_k,
        "then_top_p": then_top_p,
    }
    numbers, rows = split("cfg_probabilities", uncond is not None, values)
    weights = cfg_weights_op(cond, uncond, *numbers, *rows)
    total = weights.sum(1, keepdim=True)
    return torch.where(total < 0, torch.nan, weights.double() / total.double())
