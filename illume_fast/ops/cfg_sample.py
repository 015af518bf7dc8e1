"""Classifier-free guidance, temperature, top-k, top-p, a second such chain, min-p and a draw, in one op over logits.

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
6. Second chain, off as a rule: of what is left, the rules 3 to 5 again with numbers of its own. Its temperature
   multiplies that of 4, and the weights are made anew. (Hugging Face's `generate` so draws again from what a logits
   processor has filtered; a chain keeps a prefix of the tokens in their order, so one more threshold is all it takes.)
7. Min-p: a token stays while w >= min_p, that is while its probability is at least min_p of the largest. 0 is off.
8. Draw, noise "inverse": with r the first two words of Philox 4x32-10 (key: seed, counter: step) as a 64-bit number and
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

import torch
from torch import Tensor

from illume_fast.kernels.cpu import cfg_sample as cpu
from illume_fast.kernels.cuda import cfg_sample as cuda
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.cfg_filters import (
    CHAIN,
    SECOND_CHAIN,
    check_logits,
    check_rows,
    each,
    split,
    split_second,
    weights_reference,
)
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.philox import philox, scaled

NOISES = ("inverse", "race")


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
    then_temperature: float = 1.0,
    then_top_k: int = 0,
    then_top_p: float = 1.0,
    then_temperature_rows: Tensor | None = None,
    then_top_k_rows: Tensor | None = None,
    then_top_p_rows: Tensor | None = None,
) -> Tensor:
    """What `cfg_sample` calls, every parameter twice: a number, and per-row values (or None) that replace it."""
    rows, size = cond.shape
    if rows == 0 or size == 0:
        return cond.new_full((rows,), -1, dtype=torch.int64)
    key, counter = each(cond, "seed", seed, seed_rows), each(cond, "step", step, step_rows)
    mass = weights_reference(
        cond,
        uncond,
        each(cond, "guidance", guidance, guidance_rows),
        each(cond, "temperature", temperature, temperature_rows),
        each(cond, "top_k", top_k, top_k_rows),
        each(cond, "top_p", top_p, top_p_rows),
        each(cond, "min_p", min_p, min_p_rows),
        each(cond, "then_temperature", then_temperature, then_temperature_rows),
        each(cond, "then_top_k", then_top_k, then_top_k_rows),
        each(cond, "then_top_p", then_top_p, then_top_p_rows),
    )
    drawn = _race(mass, key, counter) if noise == "race" else _inverse(mass, key, counter)
    return torch.where(mass[:, 0] < 0, -1, drawn)


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


def _check(cond: Tensor, uncond: Tensor | None, *parameters: float | Tensor | str | None) -> None:
    check_logits("cfg_sample", cond, uncond)
    check_noise("cfg_sample", parameters[14])
    check_rows("cfg_sample", cond, CHAIN, parameters[7:14])
    temperature, top_k, top_p = second = parameters[18:]
    if temperature is not None or top_k is not None or top_p is not None:
        check_rows("cfg_sample", cond, SECOND_CHAIN, second)


def check_noise(op: str, noise: object) -> None:
    """Raise unless `noise` is one of `NOISES`."""
    if noise not in NOISES:
        raise RuntimeError(f"{op}: noise is {noise!r}, it must be one of {', '.join(NOISES)}")


def _declines_triton(cond: Tensor, uncond: Tensor | None, *parameters: object) -> str | None:
    if parameters[14:15] == ("race",):
        return "noise 'race' has no Triton kernel"
    if parameters[15:] and (parameters[15:18] != (1.0, 0, 1.0) or any(r is not None for r in parameters[18:])):
        return "a second chain has no Triton kernel"
    return declines_triton(cond)


cfg_sample_op = declare(
    "cfg_sample",
    cfg_sample_reference,
    Backend("cpu", cpu.run, cpu.declines),
    Backend("cuda", cuda.run, cuda.declines),
    Backend("triton", lazily("cfg_sample"), _declines_triton),
    check=_check,
    fake=lambda cond, *rest: cond.new_empty(cond.shape[0], dtype=torch.int64),
)


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
    then_temperature: float | Tensor = 1.0,
    then_top_k: int | Tensor = 0,
    then_top_p: float | Tensor = 1.0,
) -> Tensor:
    """Mix two branches of logits by classifier-free guidance, filter, and draw one id per row.

    `cond` and `uncond` are [B, V] in float32, bfloat16 or float16, any strides; `uncond` None needs guidance 1. Each
    parameter is a number or a tensor [B]: guidance finite; temperature >= 0, 0 being argmax; top_k >= 0, 0 being off;
    top_p and min_p in [0, 1]; seed and step any 64-bit integers. `then_temperature`, above 0, `then_top_k` and
    `then_top_p` are a second chain, which filters what the first one left; 1, 0 and 1 turn it off. The module's
    docstring gives the exact rule. A row's draw depends on its logits, parameters, seed and step alone, never on its
    place or company. `noise` ("inverse" or "race") says what is random about it: neither changes the distribution,
    both change what is drawn.

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
    second, second_rows = split_second("cfg_sample", then_temperature, then_top_k, then_top_p)
    return cfg_sample_op(cond, uncond, *numbers, *rows, noise, *second, *second_rows)
