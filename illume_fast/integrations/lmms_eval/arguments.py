"""`--model_args`: the arguments of lmms-eval's `illume_plus` model, with its names, and a few of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

import torch

from illume_fast.data.errors import InputError
from illume_fast.data.prompts import parse_size

DTYPES = {
    **dict.fromkeys(("float32", "fp32"), torch.float32),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16"), torch.float16),
}
# arguments of `illume_plus` for which the engine leaves no choice, and what they may be
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_cache": ((True,), "the engine always has a key-value cache"),
    "attn_implementation": (("sdpa", None), "attention is the engine's own"),
    "device_map": ((None,), "a model lies on one device; --device says which"),
    "infer_auto_device_map": ((False,), "a model lies on one device; --device says which"),
    "stage1_num_beams": ((1,), "the engine draws, it does not search"),
    "stage2_num_beams": ((1,), "the engine draws, it does not search"),
    "tokenizer_checkpoint": ((None,), "weights come with their folder; give it as tokenizer_config_path"),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `--model_args`, `--batch_size` and `--device` say. `docs/evaluation.md` describes each.

    `trust_remote_code` may be either: no code of a checkpoint is ever run.
    """

    pretrained: str = "ILLUME-MLLM/illume_plus-qwen2_5-7b-hf"
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 1
    trust_remote_code: bool = True
    use_cache: bool = True
    attn_implementation: str | None = "sdpa"
    device_map: str | None = None
    infer_auto_device_map: bool = False
    enable_visual_cot: bool = False
    stage1_max_new_tokens: int = 2048
    stage1_temperature: float = 0.7
    stage1_top_p: float | None = 0.9
    stage1_num_beams: int = 1
    stage2_max_new_tokens: int = 512
    stage2_temperature: float = 0.0
    stage2_top_p: float | None = None
    stage2_num_beams: int = 1
    generation_prompt_template: str = (
        "Generate a detailed visual diagram or illustration to help answer this question: {question}"
    )
    output_dir: str = "./logs/illume_fast_visual_cot"
    save_intermediate: bool = False
    intermediate_dir: str | None = None
    fail_gracefully: bool = False
    enable_image_decoding: bool = True
    tokenizer_config_path: str | None = None
    tokenizer_checkpoint: str | None = None
    diffusion_decoder_path: str | None = None
    # ours
    stage1_guidance: float = 1.0
    stage1_size: str | None = None
    seed: int = 0
    quantize: str | None = None
    cache_tokens: int | None = None
    max_pixels: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The arguments in what lmms-eval has parsed.

        Raises:
            InputError: one is unknown, of the wrong kind or out of range, or asks for what the engine does not do.
        """
        known = {field.name for field in fields(cls)}
        if strange := sorted(given.keys() - known):
            raise InputError(f"model_args: unknown {', '.join(strange)}; known are {', '.join(sorted(known))}")
        kinds = get_type_hints(cls)
        found = cls(**{name: _as(kinds[name], value, name) for name, value in given.items()})
        found._check()
        return found

    @property
    def thinks(self) -> bool:
        """Whether every question is drawn before it is answered; as in `illume_plus`, a decoder's folder says so."""
        return (
            self.enable_visual_cot or self.tokenizer_config_path is not None or self.diffusion_decoder_path is not None
        )

    @property
    def artifacts(self) -> Path | None:
        """The folder for what was drawn and answered, question by question, if that is wanted."""
        if not self.save_intermediate:
            return None
        return Path(self.intermediate_dir or Path(self.output_dir) / "intermediate_artifacts")

    def _check(self) -> None:
        for name, (allowed, reason) in FIXED.items():
            if getattr(self, name) not in allowed:
                shown = " or ".join(map(str, allowed))
                raise InputError(f"model_args: {name}={getattr(self, name)}: {reason}; allowed is {shown}")
        for name, low in (("batch_size", 1), ("stage1_max_new_tokens", 1), ("stage2_max_new_tokens", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise InputError(f"model_args: {name} must be at least {low}, got {getattr(self, name)}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"model_args: dtype {self.dtype!r} is not known; allowed are {', '.join(DTYPES)}")
        if self.stage1_size is not None:
            parse_size(self.stage1_size, "model_args: stage1_size")
        if self.thinks and not self.enable_image_decoding:
            raise InputError("model_args: enable_image_decoding=False leaves visual chain of thought without pictures")
        try:
            self.generation_prompt_template.format(question="")
        except (LookupError, ValueError) as error:
            raise InputError(f"model_args: generation_prompt_template may hold {{question}} alone: {error!r}") from None


def _as(kind: Any, value: Any, name: str) -> Any:
    """`value`, which lmms-eval took for a bool, a number or a text, as a field of `kind`."""
    kinds = get_args(kind) or (kind,)
    if value is None or (isinstance(value, str) and value.casefold() == "none"):
        if type(None) in kinds:
            return None
    elif bool in kinds:
        if isinstance(value, bool):
            return value
    elif str in kinds:
        # a folder called 7 or a question that is a number
        return str(value).removeprefix("torch.") if name == "dtype" else str(value)
    elif not isinstance(value, bool):
        wanted = int if int in kinds else float
        try:
            number = wanted(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None and (wanted is float or number == float(value)):
            return number
    names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
    raise InputError(f"model_args: {name} must be {names}, got {value!r}")
