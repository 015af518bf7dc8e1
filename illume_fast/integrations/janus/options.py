"""What a call of `generate` asks for, read as `transformers` reads it, and whether our engine can do it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerationMode
from transformers.generation.logits_process import (
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from illume_fast.engine import SamplingSet, sample_seed

_DEFAULT_GUIDANCE = 5.0
_OUTPUTS = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
# the processors that are settings of our sampler, applied in the same order; `LogitNormalization` changes no draw
_SETTINGS = {
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
    MinPLogitsWarper: "min_p",
}
# what `report` says of them
ORIGINALS = (
    "logits_processor, and options that make one beyond temperature, top_k, top_p and min_p",
    "return_dict_in_generate, output_scores and other outputs beside the tokens",
    "beams and other ways of generating than greedy and sampling",
    "inputs beside input_ids and attention_mask (past_key_values, position_ids, ...)",
    "attention masks with padding elsewhere than on the left",
    "cache_implementation other than static",
)


class OriginalNeededError(Exception):
    """The call asks for what only the model's own `generate` does; `reasons` name the options."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True, eq=False)
class Call:
    """A call that our engine can do.

    `ids` int64 [B, L] are prompts padded to the left, `mask` bool [B, L] is False at the padding, `samples` pictures
    are wanted of each. `unconditional` [B, L] is what the second branch of guidance reads under the same mask.
    """

    ids: Tensor
    mask: Tensor
    unconditional: Tensor
    samples: int
    guidance: float
    sampling: SamplingSet


def read_call(
    model: Any,
    inputs: Tensor | None,
    attention_mask: Tensor | None,
    logits_processor: LogitsProcessorList | None,
    options: dict[str, Any],
) -> Call:
    """Read the arguments of `generate` of a Janus in image mode, `options` being all that have no name of their own.

    Raises:
        OriginalNeededError: an option is beyond us.
        ValueError: the call is wrong, in the model's own words where it has some.
    """
    options = {key: value for key, value in options.items() if key != "generation_mode"}
    config, rest = model._prepare_generation_config(options.pop("generation_config", None), **options)
    reasons = _beyond_us(config, logits_processor, rest)
    if reasons:
        raise OriginalNeededError(reasons)
    config.validate()
    model._validate_model_kwargs(rest.copy())
    guidance = _guidance(config)
    ids, _, _ = model._prepare_model_inputs(inputs, config.bos_token_id, rest)
    mask = _mask(ids, attention_mask)
    sampling = _sampling(model, config, ids)
    unconditional = _unconditional(config, ids) if guidance > 1 else ids
    return Call(ids, mask, unconditional, config.num_return_sequences or 1, guidance, sampling)


def _beyond_us(config: GenerationConfig, logits_processor: object, rest: dict[str, Any]) -> list[str]:
    reasons = ["logits_processor"] if logits_processor else []
    reasons += [name for name in _OUTPUTS if getattr(config, name, None)]
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        reasons.append(f"generation by {mode.value}")
    if config.cache_implementation not in (None, "static"):
        reasons.append(f"cache_implementation {config.cache_implementation!r}")
    known = {"input_ids", "use_cache", *_OUTPUTS}
    return reasons + sorted(key for key, value in rest.items() if key not in known and value is not None)


def _guidance(config: GenerationConfig) -> float:
    scale = config.guidance_scale
    if scale is None:
        logging.getLogger(__name__).warning("janus: no guidance_scale was given; drawing with %g", _DEFAULT_GUIDANCE)
        return _DEFAULT_GUIDANCE
    if not scale >= 1:
        raise ValueError(f"janus: guidance_scale must be at least 1 (1: none), got {scale}")
    return float(scale)


def _mask(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """bool [B, L], after checking both."""
    if ids.dim() != 2:
        raise ValueError(f"janus: input_ids must be [B, L], got shape {tuple(ids.shape)}")
    if attention_mask is None:
        raise ValueError("janus: attention_mask is missing; pass what the processor gave beside input_ids")
    if attention_mask.shape != ids.shape:
        shapes = f"{tuple(attention_mask.shape)}, that of input_ids {tuple(ids.shape)}"
        raise ValueError(f"janus: the shape of attention_mask is {shapes}")
    mask = attention_mask != 0
    # a row may only go from padding to tokens, and ends in a token
    if not (mask[:, -1:].all() and (mask[:, :-1] <= mask[:, 1:]).all()):
        raise OriginalNeededError(["attention_mask with padding elsewhere than on the left"])
    return mask


def _sampling(model: Any, config: GenerationConfig, ids: Tensor) -> SamplingSet:
    """The settings of the logits processors that `transformers` would run after guidance."""
    model._prepare_special_tokens(config, True, device=ids.device)
    config.guidance_scale = None  # it would make a processor for it, and guidance is not drawn by one here
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=ids.shape[1],
        encoder_input_ids=ids,
        prefix_allowed_tokens_fn=None,
        logits_processor=LogitsProcessorList(),
        device=ids.device,
    )
    settings: dict[str, Any] = {} if config.do_sample else {"temperature": 0.0}
    unknown = []
    for processor in processors:
        name = _SETTINGS.get(type(processor))
        if name is not None:
            settings[name] = getattr(processor, name)
        elif type(processor) is not LogitNormalization:
            unknown.append(type(processor).__name__)
    if unknown:
        raise OriginalNeededError(unknown)
    return SamplingSet(**settings)


def _unconditional(config: Any, ids: Tensor) -> Tensor:
    """The same ids with padding for all but the tokens that begin text and picture."""
    boi: Any = (getattr(config, "generation_kwargs", None) or {}).get("boi_token_id")
    for name, value in (("pad_token_id", config.pad_token_id), ("generation_kwargs['boi_token_id']", boi)):
        if value is None:
            raise ValueError(f"janus: generation_config.{name} is needed for guidance and is not set")
    kept = ids.eq(boi)
    if config.bos_token_id is not None:
        kept = kept | ids.eq(config.bos_token_id)
    return ids.masked_fill(~kept, config.pad_token_id)


def picture_seeds(
    count: int, seed: int | Sequence[int] | None, generator: torch.Generator | None, sampling: SamplingSet
) -> list[int]:
    """A seed for each of `count` pictures.

    They are derived from one `seed`, or are those given, or come from `generator`, or from torch's own, so that
    `torch.manual_seed` repeats a call. Greedy answers need none and take nothing from a generator.

    Raises:
        ValueError: both were given, or the number of seeds is wrong.
    """
    if seed is not None and generator is not None:
        raise ValueError("janus: give seed or generator, not both")
    if isinstance(seed, int):
        return [sample_seed(seed, k) for k in range(count)]
    if seed is not None:
        if len(seed) != count:
            raise ValueError(f"janus: {len(seed)} seeds were given for {count} pictures")
        return [int(s) for s in seed]
    if sampling.temperature == 0:
        return [0] * count
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**63 - 1, (count,), generator=generator, device=device).tolist()
