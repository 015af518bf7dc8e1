"""How ids are drawn: a set of filters for each kind of token, guidance, and what holds for a whole answer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)  # that is no subnormal number


def _check_guidance(guidance: float) -> None:
    if not abs(guidance) <= _LARGEST:
        raise ValueError(f"sampling: guidance must be a finite number, at most {_LARGEST:.1e}, got {guidance}")


def _check_filters(what: str, top_k: int, top_p: float) -> None:
    if not 0 <= top_k < 2**63:
        raise ValueError(f"{what}: top_k must be 0 (off) or positive, below 2**63, got {top_k}")
    if not 0 <= top_p <= 1:
        raise ValueError(f"{what}: top_p must lie in [0, 1], got {top_p}")


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
        if self.guidance is not None:
            _check_guidance(self.guidance)
        if self.temperature != 0 and not _SMALLEST <= self.temperature <= _LARGEST:
            raise ValueError(
                "sampling: temperature must be 0 (greedy) or a finite positive number,"
                f" {_SMALLEST:.1e} to {_LARGEST:.1e}, got {self.temperature}"
            )
        _check_filters("sampling", self.top_k, self.top_p)
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
        if not _SMALLEST <= self.temperature <= _LARGEST:
            raise ValueError(
                f"second chain: temperature must be a finite positive number, {_SMALLEST:.1e} to {_LARGEST:.1e},"
                f" got {self.temperature}"
            )
        _check_filters("second chain", self.top_k, self.top_p)


@dataclass(frozen=True)
class SamplingParams:
    """One `SamplingSet` per kind of token (a plan's sites index them), and the guidance scale of the request.

    Guidance 1 means none: the unconditional prompt is then not even read. Other guidance holds for the answer's steps
    from `guidance_from` until before `guidance_until` (None: to the end), forced ids counted; once it is over, the
    unconditional branch costs nothing more.

    `then` filters what the set of any kind has left once more. With `repetition_penalty` above 1, ids that the answer
    holds already, forced ones included, are made less likely before guidance is mixed in, and more likely below 1 (see
    `cfg_head_sample`); such a row multiplies the head by both branches. Both are off as a rule.
    """

    sets: tuple[SamplingSet, ...] = (SamplingSet(),)
    guidance: float = 1.0
    guidance_from: int = 0
    guidance_until: int | None = None
    then: SecondChain | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not _SMALLEST <= self.repetition_penalty <= _LARGEST:
            raise ValueError(
                f"sampling: repetition_penalty must be a finite positive number, {_SMALLEST:.1e} to {_LARGEST:.1e},"
                f" got {self.repetition_penalty}"
            )
        if not self.sets:
            raise ValueError("sampling: at least one sampling set is needed")
        _check_guidance(self.guidance)
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
