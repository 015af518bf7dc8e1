"""Averages, macro averages and their intervals."""

import numpy as np
import pytest

from illume_fast.evaluation.bootstrap import Score, score


def test_plain_average_weighs_rows_and_macro_weighs_groups():
    found = score([1, 1, 1, 0], ["people", "people", "people", "food"], list("abcd"))
    assert found.mean == 0.75
    assert found.macro == 0.5
    assert found.by_group == {"people": 1.0, "food": 0.0}
    assert (found.rows, found.pictures) == (4, 4)


def test_no_rows_give_none_and_not_zero():
    assert score([], [], []) == Score()
    assert score([], [], []).mean is None


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 values, 1 groups and 2 pictures"):
        score([1, 0], ["a"], ["x", "y"])


def test_interval_of_a_coin_matches_the_binomial():
    values = np.arange(400) % 2
    found = score(values, ["g"] * 400, [str(i) for i in range(400)])
    expected = 1.96 * 0.5 / 20
    assert found.interval == pytest.approx((0.5 - expected, 0.5 + expected), abs=0.006)
    assert found.interval == found.macro_interval


def test_rows_of_one_picture_are_resampled_together():
    rng = np.random.default_rng(0)
    by_picture = rng.integers(0, 2, 40)
    values = np.repeat(by_picture, 10)
    clustered = score(values, ["g"] * 400, [str(i // 10) for i in range(400)])
    independent = score(values, ["g"] * 400, [str(i) for i in range(400)])

    def width(found):
        return found.interval[1] - found.interval[0]

    assert clustered.mean == independent.mean
    # ten copies of a row carry no more information than one: the interval is sqrt(10) times as wide
    assert width(clustered) == pytest.approx(width(independent) * 10**0.5, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        values = rng.random(100) < 0.3
        low, high = score(values, ["g"] * 100, [str(i) for i in range(100)], seed=trial, resamples=500).interval
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_a_missed_group_is_left_out():
    values, groups = [1, 1, 1, 1, 1, 0], ["big"] * 5 + ["single"]
    first, second = (score(values, groups, list("abcdef"), seed=3) for _ in range(2))
    assert first == second
    # resamples without the single row have only the big group, whose average is 1
    assert first.macro_interval[1] == 1.0
    assert first.macro == 0.5
