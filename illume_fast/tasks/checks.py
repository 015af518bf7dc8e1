"""Settings of tasks, checked: what cannot be used is an InputError of one line."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol, get_args

from illume_fast.data.chat import Written
from illume_fast.data.errors import InputError, shorten
from illume_fast.data.prompts import check_characters
from illume_fast.data.turns import Turn
from illume_fast.engine import Request
from illume_fast.model.generation_config import GenerationConfig
from illume_fast.tasks.asked import AnswerKind, Converse, Task

NEGATIVE_IN_VAIN = (
    "a negative prompt does nothing without guidance; give guidance other than 1 at some steps, or leave it out"
)
_NUMBERS = {"guidance", "temperature", "top_p", "picture_temperature", "picture_top_p"}
_WHOLE = {"seed", "guidance_from", "guidance_until", "top_k", "picture_top_k"}
_COUNTS = {"max_new_tokens", "max_pictures", "max_pixels"}
_LISTS = {"images": "PIL pictures", "samples": "whole numbers from 0 on"}
_NEEDED = {"seed", "guidance_from", "max_pictures", "images", "samples"}


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


def check(task: Task) -> None:
    """Refuse settings of another type, a seed or count out of range, texts that are none, and bad conversations."""
    for field in fields(task):
        value = getattr(task, field.name)
        if value is not None or field.name in _NEEDED:
            _check_value(field.name, value)
    if isinstance(task, Converse):
        _check_conversation(task)
    else:
        _check_text("prompt", task.prompt)


def _check_value(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if name in _NUMBERS and not (whole or isinstance(value, float)):
        raise InputError(f"{name} must be a number, got {shorten(value)}")
    if name in _WHOLE | _COUNTS and not whole:
        raise InputError(f"{name} must be a whole number, got {shorten(value)}")
    if name in _COUNTS and value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
    if name == "seed" and not 0 <= value < 2**63:
        raise InputError(f"seed must lie in [0, 2**63), got {value}")
    if name in _LISTS and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise InputError(f"{name} must be a list of {_LISTS[name]}, got {shorten(value)}")
    if name == "samples" and (wrong := [v for v in value if type(v) is not int or v < 0]):
        raise InputError(f"samples must be a list of {_LISTS[name]}, got {shorten(wrong[0])}")
    if name == "negative_prompt":
        _check_text("negative prompt", value)
    if name == "size" and not (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)
    ):
        raise InputError(f"size must be (height, width) in pixels, got {shorten(value)}")


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise InputError(f"the {name} must be a text, got {shorten(text)}")
    check_characters(text, f"the {name}")
    require_words(text, name)


def _check_conversation(task: Converse) -> None:
    if task.answer not in get_args(AnswerKind):
        raise InputError(f"answer {shorten(task.answer)} is not known; allowed are {', '.join(get_args(AnswerKind))}")
    if not isinstance(task.messages, Sequence) or not all(isinstance(turn, Turn) for turn in task.messages):
        raise InputError("messages must be a list of turns; data.turns.turns_of makes them from other forms")
    if not task.messages or task.messages[-1].role != "user":
        raise InputError("the last turn of a conversation must be the user's")
    for turn in task.messages:
        for part in turn.parts:
            if isinstance(part, str | Written):
                check_characters(part if isinstance(part, str) else part.text, f"a turn of the {turn.role}")


def require_words(prompt: str, name: str = "prompt") -> None:
    """Refuse a text without words."""
    if not prompt.strip():
        raise InputError(f"the {name} is empty")


def guidance_of(task: Guided, generation: GenerationConfig, default: float) -> float:
    """The scale of guidance that a task asks for; refuse what the model never learnt."""
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
        raise InputError(NEGATIVE_IN_VAIN)
