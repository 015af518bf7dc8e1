"""The plan of an answer: for every step either one forced id or the ids that may be drawn there.

A picture of a known size has one plan; the engine compiles it once into arrays and then gathers from them, so no
Python looks at a token while a picture is drawn. Text is a plan too: the same site at every step, and stop ids.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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

    def without(self, ids: Iterable[int]) -> "Site":
        """The same with some ids not legal any more."""
        ranges = self.ranges
        for i in ids:
            parts = [((lo, i), (i + 1, hi)) if lo <= i < hi else ((lo, hi),) for lo, hi in ranges]
            ranges = tuple((lo, hi) for part in parts for lo, hi in part if lo < hi)
        return Site(ranges, self.set)

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
    one is drawn and is -1 where forced. Any drawn id in `stop_ids` ends the answer there. Drawing an id of `inserts`
    puts that plan in between, and then this one goes on: words, a picture, words. So it may be `max_inserts` times;
    after that, these ids are not legal any more.
    """

    forced: NDArray[np.int64]
    site: NDArray[np.int64]
    sites: tuple[Site, ...]
    stop_ids: frozenset[int] = frozenset()
    inserts: Mapping[int, "Plan"] = field(default_factory=dict)
    max_inserts: int = 0

    def __post_init__(self) -> None:
        if self.max_inserts < 0 or bool(self.inserts) != bool(self.max_inserts):
            raise ValueError(
                f"plan: {self.max_inserts} inserts of {len(self.inserts)} kinds; both or neither are needed"
            )
        if any(plan.inserts or plan.stop_ids for plan in self.inserts.values()):
            raise ValueError("plan: an insert has neither inserts nor stop ids of its own")
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
    def text(
        cls,
        ranges: Sequence[tuple[int, int]],
        max_tokens: int,
        stop_ids: Iterable[int],
        set: int = 0,
        inserts: Mapping[int, "Plan"] | None = None,
        max_inserts: int = 0,
    ) -> "Plan":
        """At most `max_tokens` draws from the ids in `ranges`, ended early by a stop id; `inserts` not counted."""
        if max_tokens < 1:
            raise ValueError(f"plan: max_tokens must be at least 1, got {max_tokens}")
        words = cls.of([Site(tuple(ranges), set)] * max_tokens, stop_ids)
        return replace(words, inserts=dict(inserts or {}), max_inserts=max_inserts)

    def with_insert(self, step: int, token: int) -> "Plan":
        """This plan, once `token`, one of `inserts`, has been drawn at `step`: the insert follows, and then the
        rest."""
        insert, left = self.inserts[token], self.max_inserts - 1
        barred = () if left else self.inserts
        own = tuple(site.without(barred) for site in self.sites)
        site = np.where(insert.site < 0, -1, insert.site + len(own))
        return Plan(
            forced=np.concatenate([self.forced[: step + 1], insert.forced, self.forced[step + 1 :]]),
            site=np.concatenate([self.site[: step + 1], site, self.site[step + 1 :]]),
            sites=(*own, *insert.sites),
            stop_ids=self.stop_ids,
            inserts=self.inserts if left else {},
            max_inserts=left,
        )

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
        own = max([int(self.forced.max()), *(site.hi - 1 for site in self.sites)])
        return max([own, *(plan.highest_id for plan in self.inserts.values())])

    @property
    def all_sites(self) -> tuple[Site, ...]:
        """Its own sites and those of its inserts."""
        return (*self.sites, *(site for plan in self.inserts.values() for site in plan.sites))

    @property
    def most_steps(self) -> int:
        """Steps of the longest answer."""
        return len(self) + self._most_inserted(len)

    @property
    def most_draws(self) -> int:
        """Draws of the longest answer."""
        return len(self.draws) + self._most_inserted(lambda plan: len(plan.draws))

    @property
    def most_cached(self) -> int:
        """As `cached`, for the longest answer."""
        return self.cached + self._most_inserted(len)

    def _most_inserted(self, measure: Callable[["Plan"], int]) -> int:
        return self.max_inserts * max(map(measure, self.inserts.values()), default=0)
