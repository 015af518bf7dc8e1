"""The four scores of the emoji model, with their controls.

Each function takes what it judges as a plain callable, so that a trainer can call it between two steps and the
command line on a finished pipeline. Pictures are uint8 [N, 3, H, W] composited on white; `picks` are row numbers.

- `evaluate_psnr`: encode and decode, dB per picture, averaged.
- `evaluate_text_to_image`: draw from the name; is the result nearest to the named picture among 100 (itself and 99
  drawn at random), or among its family in every tone and gender (`siblings=True`)?
- `evaluate_editing`: is the result nearest to the edit's target among the target's family, the source included?
- `evaluate_naming`: is the answer the name, but for case and surrounding space?
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from illume_fast.data.emoji import EmojiEdit, EmojiRow
from illume_fast.evaluation.bootstrap import Score, score
from illume_fast.evaluation.retrieval import distractors, is_retrieved, psnr, random_candidates

OTHERS = 99

Reconstruct = Callable[[np.ndarray], np.ndarray]
Draw = Callable[[Sequence[str], Sequence[int]], np.ndarray]
EditPictures = Callable[[np.ndarray, Sequence[str], Sequence[int]], np.ndarray]
Name = Callable[[np.ndarray], Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A score, its controls by name, and what it judged.

    `kept` numbers the rows (for editing, the edits) that were judged; `outputs` uint8 [samples, N, 3, H, W] is what
    was drawn for them, `answers` what was said of them.
    """

    score: Score
    controls: dict[str, Score] = field(default_factory=dict)
    kept: Sequence[int] = ()
    outputs: np.ndarray | None = None
    answers: Sequence[str] = ()
    left_out: int = 0


def families(rows: Sequence[EmojiRow]) -> list[list[int]]:
    """For each row, the numbers of its family's other rows."""
    by_base = defaultdict(list)
    for index, row in enumerate(rows):
        by_base[row.base].append(index)
    return [[other for other in by_base[row.base] if other != index] for index, row in enumerate(rows)]


def pick(count: int, limit: int | None, seed: int = 0) -> list[int]:
    """All of `count` numbers, or a random `limit` of them that a larger limit contains, in rising order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).permutation(count)[:limit].tolist())


def evaluate_psnr(
    reconstruct: Reconstruct, rows: Sequence[EmojiRow], pictures: np.ndarray, picks: Sequence[int]
) -> Evaluation:
    """How well the tokenizer brings pictures back."""
    if not picks:
        return Evaluation(score=Score())
    outputs = reconstruct(pictures[list(picks)])
    values = [psnr(output, pictures[index]) for output, index in zip(outputs, picks, strict=True)]
    return Evaluation(score=_score(values, rows, picks), kept=picks, outputs=outputs[None])


def evaluate_text_to_image(
    draw: Draw,
    rows: Sequence[EmojiRow],
    pictures: np.ndarray,
    picks: Sequence[int],
    *,
    siblings: bool,
    num_samples: int = 1,
    seed: int = 0,
    reconstructions: np.ndarray | None = None,
) -> Evaluation:
    """Retrieval@1 of pictures drawn from their names, a row's value being the share of its samples that are right.

    Controls: `wrong_prompt` judges each row by what another row's name gave; `reconstruction` judges
    `reconstructions`, uint8 [len(picks), 3, H, W], which is as good as the tokenizer allows.
    """
    family = families(rows)
    candidates: dict[int, Sequence[int] | np.ndarray] = {
        index: family[index] if siblings else random_candidates(index, len(rows), min(OTHERS, len(rows) - 1), seed)
        for index in picks
    }
    kept = [index for index in picks if len(distractors(index, candidates[index], pictures))]
    if not kept:
        return Evaluation(score=Score(), left_out=len(picks))
    prompts = [rows[index].name for index in kept]
    outputs = np.stack([draw(prompts, _seeds(kept, sample, seed)) for sample in range(num_samples)])

    def judged(places: Sequence[int]) -> Score:
        """The score if row i had got the pictures of row places[i]."""
        values = [
            np.mean([is_retrieved(outputs[s, place], index, candidates[index], pictures) for s in range(num_samples)])
            for index, place in zip(kept, places, strict=True)
        ]
        return _score(values, rows, kept)

    controls = {}
    if len(kept) > 1:
        controls["wrong_prompt"] = judged(_derangement(len(kept), seed))
    if reconstructions is not None:
        where = {index: place for place, index in enumerate(picks)}
        values = [is_retrieved(reconstructions[where[i]], i, candidates[i], pictures) for i in kept]
        controls["reconstruction"] = _score(values, rows, kept)
    return Evaluation(
        score=judged(range(len(kept))),
        controls=controls,
        kept=kept,
        outputs=outputs,
        left_out=len(picks) - len(kept),
    )


def evaluate_editing(
    edit: EditPictures,
    rows: Sequence[EmojiRow],
    pictures: np.ndarray,
    edits: Sequence[EmojiEdit],
    *,
    num_samples: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Retrieval@1 of edited pictures among the target's family, which holds the source.

    Edits whose target looks exactly like their source ask for nothing and are left out. Groups and intervals are
    those of the targets. The control `copy_source` judges the sources themselves.
    """
    family = families(rows)
    places = [i for i, e in enumerate(edits) if (pictures[e.source] != pictures[e.target]).any()]
    if not places:
        return Evaluation(score=Score(), left_out=len(edits))
    kept = [edits[i] for i in places]
    sources = pictures[[e.source for e in kept]]
    instructions = [e.instruction for e in kept]
    outputs = np.stack(
        [edit(sources, instructions, _seeds(range(len(kept)), sample, seed)) for sample in range(num_samples)]
    )

    def judged(samples: np.ndarray) -> Score:
        values = [
            np.mean(
                [is_retrieved(sample[place], e.target, [e.source, *family[e.target]], pictures) for sample in samples]
            )
            for place, e in enumerate(kept)
        ]
        return _score(values, rows, [e.target for e in kept])

    return Evaluation(
        score=judged(outputs),
        controls={"copy_source": judged(sources[None])},
        kept=places,
        outputs=outputs,
        left_out=len(edits) - len(kept),
    )


def evaluate_naming(
    name: Name, rows: Sequence[EmojiRow], pictures: np.ndarray, picks: Sequence[int], *, seed: int = 0
) -> Evaluation:
    """Share of pictures whose answer is exactly their name, but for case and surrounding space.

    The control `wrong_picture` judges each row by the answer to another.
    """
    if not picks:
        return Evaluation(score=Score())
    answers = list(name(pictures[list(picks)]))

    def judged(places: Sequence[int]) -> Score:
        values = [
            answers[place].strip().casefold() == rows[index].name.casefold()
            for index, place in zip(picks, places, strict=True)
        ]
        return _score(values, rows, picks)

    controls = {"wrong_picture": judged(_derangement(len(picks), seed))} if len(picks) > 1 else {}
    return Evaluation(score=judged(range(len(picks))), controls=controls, kept=picks, answers=answers)


def _score(values: Sequence[float | np.floating], rows: Sequence[EmojiRow], picks: Sequence[int]) -> Score:
    return score(values, [rows[i].group for i in picks], [rows[i].id for i in picks])


def _seeds(numbers: Sequence[int], sample: int, seed: int) -> list[int]:
    """A seed per row and sample, all different, and different from those of another `seed`."""
    return [(seed << 40) + (sample << 24) + number for number in numbers]


def _derangement(count: int, seed: int) -> list[int]:
    """For each of `count` >= 2 places another one, each used once."""
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other.tolist()
