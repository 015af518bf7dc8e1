"""The four scores on a made-up set whose answers are known."""

import numpy as np
import pytest

from illume_fast.data.emoji import EmojiEdit, EmojiRow
from illume_fast.evaluation.emoji import (
    evaluate_editing,
    evaluate_naming,
    evaluate_psnr,
    evaluate_text_to_image,
    families,
    pick,
)
from illume_fast.evaluation.report import Report


def emoji_row(base, tone, group):
    name = f"{base}: {tone}"
    return EmojiRow(id=name, name=name, group=group, subgroup="", base=base, tone=tone, split="val")


TONES = ("light", "medium", "dark")
ROWS = [emoji_row(base, tone, "People" if base < "d" else "Food") for base in "abcdef" for tone in TONES]
PICTURES = np.random.default_rng(0).integers(0, 256, (len(ROWS), 3, 8, 8), dtype=np.uint8)
BY_NAME = {row.name: index for index, row in enumerate(ROWS)}
EVERY = list(range(len(ROWS)))


def perfect(prompts, seeds):
    return PICTURES[[BY_NAME[p] for p in prompts]]


def tone_blind(prompts, seeds):
    """Knows the family and always draws it light."""
    return PICTURES[[BY_NAME[p.split(":")[0] + ": light"] for p in prompts]]


@pytest.mark.parametrize("siblings", [False, True], ids=["among-others", "among-siblings"])
def test_a_perfect_drawer_scores_one_and_its_wrong_prompts_zero(siblings):
    found = evaluate_text_to_image(
        perfect, ROWS, PICTURES, EVERY, siblings=siblings, reconstructions=PICTURES, num_samples=2
    )
    assert found.score.mean == found.score.macro == 1.0
    assert found.score.by_group == {"People": 1.0, "Food": 1.0}
    assert found.controls["reconstruction"].mean == 1.0
    assert found.outputs.shape == (2, 18, 3, 8, 8)
    # another name's picture can be nearest to this one only by chance, and among all others it is its own nearest
    assert found.controls["wrong_prompt"].mean <= (0.6 if siblings else 0.0)


def test_a_drawer_blind_to_tones_is_right_for_one_sibling_in_three():
    found = evaluate_text_to_image(tone_blind, ROWS, PICTURES, EVERY, siblings=True)
    assert found.score.mean == pytest.approx(1 / 3)


def test_every_sample_gets_its_own_seed_and_a_row_keeps_its_seed_in_a_subset():
    calls = []

    def draw(prompts, seeds):
        calls.append(dict(zip(prompts, seeds, strict=True)))
        return perfect(prompts, seeds)

    evaluate_text_to_image(draw, ROWS, PICTURES, EVERY, siblings=False, num_samples=3, seed=5)
    assert len({seed for call in calls for seed in call.values()}) == 3 * len(ROWS)
    evaluate_text_to_image(draw, ROWS, PICTURES, [2, 7], siblings=False, seed=5)
    assert calls[3] == {ROWS[i].name: calls[0][ROWS[i].name] for i in (2, 7)}


def test_rows_that_nothing_competes_with_are_left_out():
    rows = [*ROWS, emoji_row("g", "alone", "Food")]
    pictures = np.concatenate([PICTURES, PICTURES[:1]])
    found = evaluate_text_to_image(
        lambda prompts, seeds: PICTURES[: len(prompts)], rows, pictures, [0, 18], siblings=True
    )
    assert found.left_out == 1
    assert found.score.rows == 1


EDITS = [
    EmojiEdit(source=i, target=j, instruction=ROWS[j].name, kind="", split="val")
    for i in EVERY
    for j in EVERY
    if i != j and ROWS[i].base == ROWS[j].base
]


def test_a_perfect_editor_scores_one_and_copying_scores_zero():
    found = evaluate_editing(lambda sources, instructions, seeds: perfect(instructions, seeds), ROWS, PICTURES, EDITS)
    assert found.score.mean == 1.0
    assert found.score.rows == len(EDITS)
    assert found.score.pictures == len(ROWS)
    assert found.controls["copy_source"].mean == 0.0


def test_a_source_of_another_family_competes_too():
    across = [EmojiEdit(source=0, target=3, instruction="", kind="", split="val")]
    pictures = PICTURES.copy()
    # next to the target, and nearer to it than its family is
    pictures[0] = np.where(pictures[3] < 255, pictures[3] + 1, 254)
    found = evaluate_editing(lambda sources, instructions, seeds: sources, ROWS, pictures, across)
    assert found.score.mean == 0.0


def test_an_edit_between_equal_pictures_asks_for_nothing():
    pictures = PICTURES.copy()
    pictures[1] = pictures[0]
    found = evaluate_editing(
        lambda sources, instructions, seeds: sources, ROWS, pictures, [e for e in EDITS if ROWS[e.source].base == "a"]
    )
    assert found.left_out == 2
    assert found.score.mean == 0.0


def test_naming_ignores_case_and_space_and_nothing_else():
    names = [row.name for row in ROWS]
    answers = [f"  {names[0].upper()} ", names[1] + ".", *names[2:]]
    found = evaluate_naming(lambda pictures: answers, ROWS, PICTURES, EVERY)
    assert found.score.mean == pytest.approx(17 / 18)
    assert found.controls["wrong_picture"].mean == 0.0
    assert found.answers == answers


def test_psnr_averages_decibels_of_pictures():
    noisy = np.where(PICTURES > 127, PICTURES - 10, PICTURES + 10).astype(np.uint8)
    found = evaluate_psnr(lambda pictures: noisy[:4], ROWS, PICTURES, [0, 1, 2, 3])
    assert found.score.mean == pytest.approx(10 * np.log10(255**2 / 100))


def test_nothing_to_judge_is_none_everywhere():
    nothing = [
        evaluate_psnr(None, ROWS, PICTURES, []),
        evaluate_text_to_image(None, ROWS, PICTURES, [], siblings=False),
        evaluate_editing(None, ROWS, PICTURES, []),
        evaluate_naming(None, ROWS, PICTURES, []),
    ]
    assert [e.score.mean for e in nothing] == [None] * 4


def test_families_and_subsets():
    assert families(ROWS)[4] == [3, 5]
    assert pick(5, None) == pick(5, 9) == [0, 1, 2, 3, 4]
    assert set(pick(100, 5)) < set(pick(100, 9))


def test_the_report_has_the_documented_keys_and_null_for_what_was_not_measured():
    drawn = evaluate_text_to_image(perfect, ROWS, PICTURES, EVERY, siblings=False)
    report = Report(evaluations={"text_to_image": drawn}, sweep={1.0: {"text_to_image": drawn}}, settings={"seed": 0})
    document = report.to_json()
    assert document["text_to_image"] == 1.0
    assert document["psnr"] is document["editing"] is document["naming"] is None
    assert document["macro"]["text_to_image"] == 1.0
    assert document["macro"]["naming"] is None
    assert document["by_group"]["Food"] == {"psnr": None, "text_to_image": 1.0, "editing": None, "naming": None}
    assert document["intervals"]["text_to_image"] == (1.0, 1.0)
    assert document["controls"]["text_to_image"]["wrong_prompt"]["mean"] == 0.0
    assert document["settings"]["rows"]["text_to_image"] == len(ROWS)
    assert document["sweep"][0]["guidance"] == 1.0
    assert report.table().row_count >= 4
