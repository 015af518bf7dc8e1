"""Sheets show what was judged, in its right place."""

import numpy as np

from illume_fast.data.emoji import EmojiEdit, EmojiRow, EmojiSet
from illume_fast.evaluation.bootstrap import Score
from illume_fast.evaluation.emoji import Evaluation
from illume_fast.evaluation.report import Report
from illume_fast.evaluation.sheets import sheets

ROWS = [EmojiRow(str(i), f"thing {i}", "Food", "", "thing", "", "val") for i in range(4)]


def flat(*values):
    return np.stack([np.full((3, 8, 8), value, dtype=np.uint8) for value in values])


def count(page, value):
    """How many whole pictures of 128 x 128 in that grey the page shows."""
    return (np.asarray(page) == value).all(axis=-1).sum() // 128**2


def test_each_metric_shows_its_pictures():
    emoji = EmojiSet(ROWS, flat(10, 20, 30, 40), [])
    edits = [EmojiEdit(3, 2, "unused", "", "val"), EmojiEdit(0, 1, "make it darker", "", "val")]
    found = sheets(
        Report(
            evaluations={
                "text_to_image": Evaluation(score=Score(), kept=[2], outputs=flat(100)[None]),
                "editing": Evaluation(score=Score(), kept=[1], outputs=flat(110)[None]),
                "naming": Evaluation(score=Score(), kept=[3], answers=["thing 3"]),
                "psnr": Evaluation(score=Score(), kept=[0], outputs=flat(120)[None]),
            }
        ),
        emoji,
        edits,
    )
    assert set(found) == {"text_to_image", "editing", "naming"}
    assert count(found["text_to_image"], 100) == 1
    assert [count(found["editing"], value) for value in (10, 110, 20, 40)] == [1, 1, 1, 0]
    assert count(found["naming"], 40) == 1


def test_nothing_judged_shows_nothing():
    nothing = Report(evaluations={"text_to_image": Evaluation(score=Score())})
    assert sheets(nothing, EmojiSet(ROWS, flat(1, 2, 3, 4), []), []) == {}
