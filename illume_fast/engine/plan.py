"""The plan of an answer: for every step either one forced id or the ids that may be drawn there.

A picture of a known size has one plan; the engine compiles it once into arrays and then gathers from them, so no
Python looks at a token while a picture is drawn. Text is a plan too: the same site at every step, and stop ids.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Site:
    """A kind of draw: legal ids as ascending, disjoint ranges [lo, hi), and which sampling set is used."""

    ranges: Ranges
    set: int = 0

    def __post_init__(self) -> None:
        if self.set < 0:
            raise ValueError(f"site: sampling set must not be negative, got {self.set}")
        if not self.ranges:
            raise ValueError("site: at least one range of legal ids is needed")
        end = 0
        for lo, hi in self.ranges:
            if not end <= lo < hi:
                raise ValueError(f"site: ranges must be ascending, disjoint and not empty, got {self.ranges}")
            end = hi

    @property
    def lo(self) -> int:
        return self.ranges[0][0]

    @property
    def hi(self) -> int:
        return self.ranges[-1][1]


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps 0..S-1 of an answer.

    `forced` int64[S] holds the id of a forced step and -1 where one is drawn; `site` int64[S] indexes `sites` where
    one is drawn and is -1 where forced. Any drawn id in `stop_ids` ends the answer there.
    """

    forced: NDArray[np.int64]
    site: NDArray[np.int64]
    sites: tuple[Site, ...]
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.forced.shape != self.site.shape or self.forced.ndim != 1 or not len(self.forced):
            raise ValueError(
                f"plan: forced {self.forced.shape} and site {self.site.shape} must be equal, 1-D and not empty"
            )
        if np.any((self.forced < 0) != (self.site >= 0)):
            raise ValueError("plan: each step is either forced or has a site")
        if self.site.max(initial=-1) >= len(self.sites):
            raise ValueError(f"plan: site {self.site.max()} is not one of {len(self.sites)}")

    @classmethod
    def of(cls, steps: Iterable[int | Site], stop_ids: Iterable[int] = ()) -> "Plan":
        """A plan from a list of steps: an int is a forced id, a `Site` is a draw."""
        index: dict[Site, int] = {}
        forced, site = [], []
        for step in steps:
            if isinstance(step, Site):
                forced.append(-1)
                site.append(index.setdefault(step, len(index)))
            elif step >= 0:
                forced.append(step)
                site.append(-1)
            else:
                raise ValueError(f"plan: a forced id must not be negative, got {step}")
        return cls(np.array(forced, np.int64), np.array(site, np.int64), tuple(index), frozenset(stop_ids))

    @classmethod
    def text(cls, ranges: Sequence[tuple[int, int]], max_tokens: int, stop_ids: Iterable[int], set: int = 0) -> "Plan":
        """At most `max_tokens` draws from the ids in `ranges`, ended early by a stop id."""
        if max_tokens < 1:
            raise ValueError(f"plan: max_tokens must be at least 1, got {max_tokens}")
        return cls.of([Site(tuple(ranges), set)] * max_tokens, stop_ids)

    def __len__(self) -> int:
        return len(self.forced)

    @cached_property
    def draws(self) -> NDArray[np.int64]:
        """int64[D]: the steps where an id is drawn."""
        return np.flatnonzero(self.forced < 0)

    @property
    def lead(self) -> int:
        """Forced steps before the first draw; they are read with the prompt."""
        return int(self.draws[0]) if len(self.draws) else len(self)

    @property
    def cached(self) -> int:
        """Answer tokens the cache must hold: all before the last draw (what follows it is never read)."""
        return int(self.draws[-1]) if len(self.draws) else 0

    @property
    def highest_id(self) -> int:
        """The largest id the answer can hold."""
        return max([int(self.forced.max()), *(site.hi - 1 for site in self.sites)])
