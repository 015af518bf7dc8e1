"""Averages with bootstrap intervals, over all rows and over groups."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A metric over the rows of a split.

    `mean` weighs every row alike, `macro` every group alike. Intervals are 95 % percentile intervals of a bootstrap
    over pictures: the rows of one picture are drawn together, because they share what makes them easy or hard.
    All values are None and `by_group` is empty where there are no rows.
    """

    mean: float | None = None
    interval: Interval | None = None
    macro: float | None = None
    macro_interval: Interval | None = None
    by_group: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    pictures: int = 0


def score(
    values: Sequence[float | np.floating] | np.ndarray,
    groups: Sequence[str],
    pictures: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Average `values`, one per row, whose row belongs to a group and to a picture.

    Raises:
        ValueError: the three differ in length.
    """
    if not len(values) == len(groups) == len(pictures):
        raise ValueError(f"score: {len(values)} values, {len(groups)} groups and {len(pictures)} pictures; must agree")
    if len(values) == 0:
        return Score()
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    ids, picture = np.unique(np.asarray(pictures), return_inverse=True)
    # a picture may have rows in one group only, but nothing here relies on it
    sums = np.zeros((len(ids), len(names)))
    counts = np.zeros_like(sums)
    np.add.at(sums, (picture, group), np.asarray(values, dtype=np.float64))
    np.add.at(counts, (picture, group), 1)

    draws = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples)
    mean, macro = _averages(draws @ sums, draws @ counts)
    whole_sums, whole_counts = sums.sum(0, keepdims=True), counts.sum(0, keepdims=True)
    whole_mean, whole_macro = _averages(whole_sums, whole_counts)
    return Score(
        mean=float(whole_mean[0]),
        interval=_interval(mean),
        macro=float(whole_macro[0]),
        macro_interval=_interval(macro),
        by_group={str(n): float(s / c) for n, s, c in zip(names, whole_sums[0], whole_counts[0], strict=True)},
        rows=len(values),
        pictures=len(ids),
    )


def _averages(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain and macro average per resample; `sums` and `counts` are [resamples, groups].

    A group that a resample missed has no average there and is left out of that resample's macro average.
    """
    present = counts > 0
    by_group = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    return sums.sum(1) / counts.sum(1), by_group.sum(1) / present.sum(1)


def _interval(samples: np.ndarray) -> Interval:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
