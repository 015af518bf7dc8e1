"""Pages to look at: what a model drew, edited and named in an evaluation."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from illume_fast.data.emoji import EmojiEdit, EmojiSet
from illume_fast.data.sheet import contact_sheet
from illume_fast.evaluation.emoji import Evaluation, pick
from illume_fast.evaluation.report import Report

DRAWN, EDITED, NAMED = 64, 16, 16


def sheets(report: Report, emoji: EmojiSet, edits: Sequence[EmojiEdit], seed: int = 0) -> dict[str, Image.Image]:
    """A contact sheet for each metric of `report` that shows something: pictures chosen at random, not by merit.

    `edits` are those that were judged. Edits show the source, the result and the target; names that are wrong have
    the right one beside them.
    """
    found = report.evaluations
    tiles: dict[str, list[tuple[str, list[Image.Image]]]] = {}
    if (drawn := found.get("text_to_image")) is not None:
        tiles["text_to_image"] = [
            (emoji.rows[drawn.kept[place]].name, [_output(drawn, place)])
            for place in pick(len(drawn.kept), DRAWN, seed)
        ]
    if (edited := found.get("editing")) is not None:
        tiles["editing"] = [
            (edit.instruction, [_picture(emoji.pixels[edit.source]), result, _picture(emoji.pixels[edit.target])])
            for place in pick(len(edited.kept), EDITED, seed)
            for edit, result in [(edits[edited.kept[place]], _output(edited, place))]
        ]
    if (named := found.get("naming")) is not None:
        tiles["naming"] = [
            (_caption(named.answers[place], emoji.rows[row].name), [_picture(emoji.pixels[row])])
            for place in pick(len(named.kept), NAMED, seed)
            for row in [named.kept[place]]
        ]
    return {metric: contact_sheet(shown) for metric, shown in tiles.items() if shown}


def _output(evaluation: Evaluation, place: int) -> Image.Image:
    assert evaluation.outputs is not None
    return _picture(evaluation.outputs[0, place])


def _caption(answer: str, name: str) -> str:
    return answer if answer.casefold() == name.casefold() else f"{answer or 'nothing'} (not: {name})"


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
