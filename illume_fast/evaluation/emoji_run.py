"""All scores of a split in one go, over one or several guidance scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from illume_fast.data.emoji import EmojiSet
from illume_fast.data.errors import InputError
from illume_fast.evaluation.emoji import (
    Evaluation,
    evaluate_editing,
    evaluate_naming,
    evaluate_psnr,
    evaluate_text_to_image,
    pick,
)
from illume_fast.evaluation.report import METRICS, Report

# the split whose pictures have close relatives in training: finding them among strangers would say nothing
AMONG_SIBLINGS = "val_combo"
DRAWN = ("text_to_image", "editing")


class Subject(Protocol):
    """What is judged. Pictures go in and come out as uint8 [N, 3, H, W] of the size of the set."""

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """Encode and decode with the vision tokenizer."""
        ...

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], guidance: float) -> np.ndarray:
        """A picture for each prompt."""
        ...

    def edit(
        self, pixels: np.ndarray, instructions: Sequence[str], seeds: Sequence[int], guidance: float
    ) -> np.ndarray:
        """An edit of each picture."""
        ...

    def name(self, pixels: np.ndarray) -> Sequence[str]:
        """What each picture shows."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EmojiSettings:
    """What to evaluate.

    `guidance` lists the scales at which text-to-image and editing are tried; the headline figure of each is the one at
    its `headline` scale, chosen beforehand and never by its result.
    """

    split: str
    guidance: Mapping[str, Sequence[float]]
    headline: Mapping[str, float]
    metrics: Sequence[str] = tuple(METRICS)
    limit: int | None = None
    num_samples: int = 1
    seed: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric in DRAWN:
            if metric in self.metrics and self.headline[metric] not in self.guidance[metric]:
                raise ValueError(f"{metric}: headline guidance {self.headline[metric]} is not among those tried")


class EmojiRun:
    """A split of a set, cut down to `limit`, and the rows that each metric needs.

    Raises:
        InputError: the set has no such split.
    """

    def __init__(self, emoji: EmojiSet, settings: EmojiSettings) -> None:
        splits = sorted({row.split for row in emoji.rows})
        if settings.split not in splits:
            raise InputError(f"there is no split {settings.split!r}; the splits are {', '.join(splits)}")
        rows = emoji.split(settings.split)
        edits = [edit for edit in emoji.edits if edit.split == settings.split]
        self.emoji, self.settings = emoji, settings
        self.picks = [rows[i] for i in pick(len(rows), settings.limit)]
        self.edits = [edits[i] for i in pick(len(edits), settings.limit)]

    @property
    def amount(self) -> int:
        """Pictures to reconstruct, draw, edit and name, all together."""
        rows = {"psnr": len(self.picks), "naming": len(self.picks)}
        for metric, count in zip(DRAWN, (len(self.picks), len(self.edits)), strict=True):
            rows[metric] = count * self.settings.num_samples * len(self.settings.guidance[metric])
        return sum(rows[metric] for metric in self.settings.metrics)

    def report(self, subject: Subject) -> Report:
        """Judge `subject`."""
        rows, pixels, settings = self.emoji.rows, self.emoji.pixels, self.settings
        found: dict[str, Evaluation] = {}
        reconstructions = None
        if "psnr" in settings.metrics:
            found["psnr"] = evaluate_psnr(subject.reconstruct, rows, pixels, self.picks)
            if found["psnr"].outputs is not None:
                reconstructions = found["psnr"].outputs[0]
        if "naming" in settings.metrics:
            found["naming"] = evaluate_naming(subject.name, rows, pixels, self.picks, seed=settings.seed)
        sweep: dict[float, dict[str, Evaluation]] = {}
        for metric in DRAWN:
            if metric in settings.metrics:
                for guidance in settings.guidance[metric]:
                    sweep.setdefault(guidance, {})[metric] = self._drawn(metric, subject, guidance, reconstructions)
                found[metric] = sweep[settings.headline[metric]][metric]
        return Report(
            evaluations={metric: found[metric] for metric in METRICS if metric in found},
            sweep=sweep,
            settings={
                **settings.notes,
                "split": settings.split,
                "guidance": {metric: settings.headline[metric] for metric in DRAWN},
                "num_samples": settings.num_samples,
                "limit": settings.limit,
                "seed": settings.seed,
                "picture_size": pixels.shape[-1],
                "candidates": "siblings" if settings.split == AMONG_SIBLINGS else "99 others",
            },
        )

    def _drawn(self, metric: str, subject: Subject, guidance: float, reconstructions: np.ndarray | None) -> Evaluation:
        rows, pixels, settings = self.emoji.rows, self.emoji.pixels, self.settings
        if metric == "editing":
            return evaluate_editing(
                lambda sources, instructions, seeds: subject.edit(sources, instructions, seeds, guidance),
                rows,
                pixels,
                self.edits,
                num_samples=settings.num_samples,
                seed=settings.seed,
            )
        return evaluate_text_to_image(
            lambda prompts, seeds: subject.draw(prompts, seeds, guidance),
            rows,
            pixels,
            self.picks,
            siblings=settings.split == AMONG_SIBLINGS,
            num_samples=settings.num_samples,
            seed=settings.seed,
            reconstructions=reconstructions,
        )
