"""How ids are drawn: a set of filters for each kind of token, guidance, and what holds for a whole answer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SamplingSet:
    """How one kind of token is drawn; the meaning of each number is that of `illume_fast.ops.cfg_sample`.

    `guidance` replaces the request's scale for this kind: 1 leaves the words of an answer unguided beside its pictures.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not abs(self.guidance) < float("inf"):
            raise ValueError(f"sampling: guidance must be a finite number, got {self.guidance}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"sampling: temperature must be 0 (greedy) or a finite positive number, got {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"sampling: top_k must be 0 (off) or positive, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"sampling: top_p must lie in [0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"sampling: min_p must lie in [0, 1], got {self.min_p}")


GREEDY = SamplingSet(temperature=0.0)


@dataclass(frozen=True)
class SecondChain:
    """Filters for what those of a `SamplingSet` have left; the meaning of each number is that of `cfg_sample`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"second chain: temperature must be a finite positive number, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"second chain: top_k must be 0 (off) or positive, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"second chain: top_p must lie in [0, 1], got {self.top_p}")


@dataclass(frozen=True)
class SamplingParams:
    """One `SamplingSet` per kind of token (a plan's sites index them), and the guidance scale of the request.

    Guidance 1 means none: the unconditional prompt is then not even read. Other guidance holds for the answer's steps
    from `guidance_from` until before `guidance_until` (None: to the end), forced ids counted; once it is over, the
    unconditional branch costs nothing more.

    `then` filters what the set of any kind has left once more. With `repetition_penalty` above 1, ids that the answer
    holds already, forced ones included, are made less likely before guidance is mixed in (see `cfg_head_sample`); such
    a row multiplies the head by both branches. Both are off as a rule.
    """

    sets: tuple[SamplingSet, ...] = (SamplingSet(),)
    guidance: float = 1.0
    guidance_from: int = 0
    guidance_until: int | None = None
    then: SecondChain | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"sampling: repetition_penalty must be a finite positive number, got {self.repetition_penalty}"
            )
        if not self.sets:
            raise ValueError("sampling: at least one sampling set is needed")
        if not abs(self.guidance) < float("inf"):
            raise ValueError(f"sampling: guidance must be a finite number, got {self.guidance}")
        until = self.guidance_until
        if self.guidance_from < 0:
            raise ValueError(f"sampling: guidance_from must be a step, from 0, got {self.guidance_from}")
        if until is not None and until < self.guidance_from:
            raise ValueError(f"sampling: guidance_until {until} is before guidance_from {self.guidance_from}")

    def guidance_of(self, kind: SamplingSet) -> float:
        """The scale that draws of this kind take."""
        return self.guidance if kind.guidance is None else kind.guidance

    def guided_draws(self, draws: NDArray[np.int64]) -> int:
        """How many of the draws, made at these steps, come before guidance is over."""
        return len(draws) if self.guidance_until is None else int(np.searchsorted(draws, self.guidance_until))
