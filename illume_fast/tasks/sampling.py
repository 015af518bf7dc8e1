"""From what a task asks for, a checkpoint's defaults and presets to the engine's `SamplingParams`."""

from dataclasses import replace
from typing import Protocol

from illume_fast.data.errors import InputError
from illume_fast.data.sampling_presets import Filters, SamplingPreset, sampling_preset
from illume_fast.engine import SamplingParams, SamplingSet, SecondChain
from illume_fast.model.generation_config import GenerationConfig, SamplingDefaults


class Filtered(Protocol):
    """How ids are drawn; what is None is a default."""

    @property
    def temperature(self) -> float | None: ...

    @property
    def top_k(self) -> int | None: ...

    @property
    def top_p(self) -> float | None: ...


class Sampled(Filtered, Protocol):
    """How a task wants ids to be drawn: `sampling` is the name of a preset, or None for the model's own defaults."""

    @property
    def sampling(self) -> str | None: ...


class Drawn(Sampled, Protocol):
    """How pictures are wanted; `shows_pictures` says that they are edits."""

    @property
    def shows_pictures(self) -> bool: ...

    @property
    def guidance_from(self) -> int: ...

    @property
    def guidance_until(self) -> int | None: ...


def picture_sampling(task: Drawn, generation: GenerationConfig, guidance: float) -> SamplingParams:
    """Set 0 for semantic and 1 for pixel codes. InputError for numbers out of range or an unknown preset."""
    preset = sampling_preset(task.sampling, editing=task.shows_pictures)
    own = generation if preset is None else preset
    stretch = task.guidance_from, task.guidance_until
    return _params(task, (own.semantic, own.pixel), preset, generation.repetition_penalty, guidance, *stretch)


def answer_sampling(task: Sampled, generation: GenerationConfig) -> SamplingParams:
    """One set, greedy unless a preset or a temperature is given. InputError as for pictures."""
    preset = sampling_preset(task.sampling)
    text = replace(generation.text, temperature=0.0) if preset is None else preset.text
    return _params(task, (text,), preset, generation.repetition_penalty)


def default_guidance(task: Drawn, generation: GenerationConfig) -> float:
    """The scale of guidance of a picture that asks for none."""
    preset = sampling_preset(task.sampling, editing=task.shows_pictures)
    if preset is not None:
        return preset.guidance
    return generation.edit_guidance if task.shows_pictures else generation.guidance


def _params(
    task: Sampled,
    defaults: tuple[SamplingDefaults | Filters, ...],
    preset: SamplingPreset | None,
    penalty: float,
    guidance: float = 1.0,
    since: int = 0,
    until: int | None = None,
) -> SamplingParams:
    try:
        sets = tuple(sampling_set(task, d) for d in defaults)
        if preset is None:
            return SamplingParams(sets, guidance, since, until)
        text = sampling_set(task, preset.text)
        # the warpers do not run where the best token is taken
        twice = preset.twice and text.temperature > 0
        then = SecondChain(text.temperature, text.top_k, text.top_p) if twice else None
        return SamplingParams(sets, guidance, since, until, then, penalty)
    except ValueError as error:
        raise InputError(str(error)) from None


def sampling_set(task: Filtered, defaults: SamplingDefaults | Filters) -> SamplingSet:
    """The settings of a task, and the defaults where it has none. ValueError for numbers out of range."""
    return SamplingSet(
        temperature=defaults.temperature if task.temperature is None else task.temperature,
        top_k=defaults.top_k if task.top_k is None else task.top_k,
        top_p=defaults.top_p if task.top_p is None else task.top_p,
    )
