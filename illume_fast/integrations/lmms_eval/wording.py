"""How words are made: `generation_kwargs` of a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from illume_fast.data.errors import InputError

# what the evaluator fills in where a task names no end
_FILLED_IN = ["\n\n"]
# said by tasks, and without meaning here: how LLaVA cuts pictures, and that the prompt says what to draw
_OF_OTHERS = ("image_aspect_ratio", "visual_cot")
# what the engine does in one way only
_FIXED = {"num_beams": (None, 1), "repetition_penalty": (None, 1, 1.0), "skip_special_tokens": (None, True)}
_OURS = ("until", "max_new_tokens", "temperature", "top_p", "top_k", "do_sample", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """Sampling of an answer, and the texts that end it. What is None is the model's own."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stops: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> Self:
        """The wording that a task asks for: greedy with `do_sample` False, or without it at no temperature above 0.

        Raises:
            InputError: a key is unknown, or asks for what the engine does not do.
        """
        for key, value in kwargs.items():
            if key in _FIXED and value not in _FIXED[key]:
                allowed = " or ".join(map(str, _FIXED[key]))
                raise InputError(f"generation_kwargs: {key}={value} is not supported; allowed is {allowed}")
            if key not in (*_OURS, *_FIXED, *_OF_OTHERS):
                known = ", ".join((*_OURS, *_FIXED, *_OF_OTHERS))
                raise InputError(f"generation_kwargs: {key!r} is not known; known are {known}")
        most = kwargs.get("max_new_tokens")
        if most is not None and int(most) < 1:
            raise InputError(f"generation_kwargs: max_new_tokens must be at least 1, got {most}")
        temperature = kwargs.get("temperature")
        do_sample = kwargs.get("do_sample")
        if do_sample is None:
            temperature = temperature or 0.0
        elif do_sample:
            temperature = 1.0 if temperature is None else temperature
        else:
            temperature = 0.0
        return cls(
            max_new_tokens=None if most is None else int(most),
            temperature=float(temperature),
            top_k=kwargs.get("top_k"),
            top_p=kwargs.get("top_p"),
            stops=_stops(kwargs.get("until")),
            seed=int(kwargs.get("seed") or 0),
        )

    def cut(self, answer: str) -> str:
        """`answer` until before the first of the texts that end it."""
        ends = [place for stop in self.stops if (place := answer.find(stop)) >= 0]
        return answer[: min(ends)] if ends else answer


GREEDY = Wording()


def _stops(until: Any) -> tuple[str, ...]:
    if until is None or until == _FILLED_IN:
        return ()
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise InputError(f"generation_kwargs: until must be a text or a list of texts, got {until!r}")
    return tuple(stop for stop in stops if stop)
