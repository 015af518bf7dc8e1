"""Retrieval@1 and PSNR on pictures small enough to check by hand."""

import numpy as np
import pytest

from illume_fast.evaluation.retrieval import (
    MAX_PSNR,
    distractors,
    is_retrieved,
    psnr,
    random_candidates,
    squared_errors,
)


def flat(*values):
    """One uint8 [3, 4, 4] picture of a single value for each of `values`."""
    return np.stack([np.full((3, 4, 4), value, dtype=np.uint8) for value in values])


def test_squared_errors_are_exact_at_the_extremes():
    black, white = flat(0, 255)
    assert squared_errors(black, np.stack([black, white])).tolist() == [0, 48 * 255**2]


def test_nearest_wins_and_farther_loses():
    pictures = flat(0, 100, 200)
    assert is_retrieved(flat(90)[0], 1, [0, 2], pictures)
    assert not is_retrieved(flat(40)[0], 1, [0, 2], pictures)


def test_halfway_between_two_different_pictures_is_wrong():
    assert not is_retrieved(flat(50)[0], 1, [0], flat(0, 100))


def test_a_candidate_with_the_same_picture_does_not_compete():
    pictures = flat(100, 100, 0)
    assert distractors(0, [1, 2], pictures).tolist() == [2]
    assert is_retrieved(flat(100)[0], 0, [1, 2], pictures)
    assert not is_retrieved(flat(10)[0], 0, [1, 2], pictures)


def test_random_candidates_never_hold_the_target_and_reach_every_other_picture():
    seen = set()
    for seed in range(60):
        chosen = random_candidates(3, 10, 5, seed)
        assert len(set(chosen.tolist())) == 5
        assert 3 not in chosen
        seen.update(chosen.tolist())
    assert seen == set(range(10)) - {3}
    assert (random_candidates(3, 10, 5, 7) == random_candidates(3, 10, 5, 7)).all()


def test_more_candidates_than_pictures_is_an_error():
    with pytest.raises(ValueError, match="cannot draw 10 others from 10 pictures"):
        random_candidates(0, 10, 10, 0)


def test_psnr_by_hand():
    assert psnr(*flat(0, 255)) == pytest.approx(0.0)
    assert psnr(*flat(100, 110)) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(*flat(7, 7)) == MAX_PSNR
