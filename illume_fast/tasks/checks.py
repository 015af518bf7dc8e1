"""Settings of tasks, checked: what cannot be used is an InputError of one line."""

from typing import Protocol

from illume_fast.data.errors import InputError
from illume_fast.engine import Request, SamplingSet
from illume_fast.model.generation_config import GenerationConfig, SamplingDefaults


class Sampled(Protocol):
    """How ids are drawn; what is None is the model's default."""

    @property
    def temperature(self) -> float | None: ...

    @property
    def top_k(self) -> int | None: ...

    @property
    def top_p(self) -> float | None: ...


class Guided(Protocol):
    """How pictures are guided."""

    @property
    def guidance(self) -> float | None: ...

    @property
    def negative_prompt(self) -> str | None: ...

    @property
    def guidance_from(self) -> int: ...

    @property
    def guidance_until(self) -> int | None: ...


def require_words(prompt: str, name: str = "prompt") -> None:
    """Refuse a text without words."""
    if not prompt.strip():
        raise InputError(f"the {name} is empty")


def sampling_set(task: Sampled, defaults: SamplingDefaults) -> SamplingSet:
    """The settings of a task, and the model's where it has none."""
    return SamplingSet(
        temperature=defaults.temperature if task.temperature is None else task.temperature,
        top_k=defaults.top_k if task.top_k is None else task.top_k,
        top_p=defaults.top_p if task.top_p is None else task.top_p,
    )


def guidance_of(task: Guided, generation: GenerationConfig, default: float) -> float:
    """The scale of guidance that a task asks for; refuse what the model never learnt."""
    if task.negative_prompt is not None:
        require_words(task.negative_prompt, "negative prompt")
    if generation.has_unconditional:
        return default if task.guidance is None else task.guidance
    if task.guidance not in (None, 1.0):
        raise InputError(
            f"guidance {task.guidance:g}: this model was trained without an unconditional prompt; allowed is 1"
        )
    if task.negative_prompt is not None or (task.guidance_from, task.guidance_until) != (0, None):
        raise InputError(
            "this model was trained without an unconditional prompt, which guidance needs; leave out the negative"
            " prompt, guidance_from and guidance_until"
        )
    return 1.0


def check_stretch(task: Guided, request: Request) -> None:
    """Refuse guidance that begins behind the picture, and a negative prompt without guidance."""
    steps = len(request.plan)
    if task.guidance_from >= steps:
        raise InputError(f"guidance_from {task.guidance_from}: this picture has the steps 0 to {steps - 1}")
    if task.negative_prompt is not None and not request.guided:
        raise InputError(
            "a negative prompt does nothing without guidance; give guidance other than 1 at some steps, or leave it out"
        )
