"""Scores of a language model in training, on combinations it has not seen: what early stopping goes by."""

from collections.abc import Callable, Mapping
from pathlib import Path

from illume_fast.commands.options import SamplingOptions
from illume_fast.commands.subject import PainterSubject
from illume_fast.data.emoji import load_emoji
from illume_fast.evaluation.emoji_run import EmojiRun, EmojiSettings
from illume_fast.jobs.painter import Painter
from illume_fast.pipeline import IllumePipeline

_METRICS = ("text_to_image", "editing", "naming")
_GUIDANCE = {"text_to_image": 1.5, "editing": 1.5}


def emoji_judge(data: Path, limit: int = 66) -> Callable[[Path], Mapping[str, float]]:
    """A function from a checkpoint folder to its scores on `limit` rows of `val_combo`; "score" is their mean."""
    emoji = load_emoji(data)
    settings = EmojiSettings(
        split="val_combo",
        guidance={metric: (scale,) for metric, scale in _GUIDANCE.items()},
        headline=_GUIDANCE,
        metrics=_METRICS,
        limit=limit,
    )
    run = EmojiRun(emoji, settings)

    def judge(folder: Path) -> Mapping[str, float]:
        painter = Painter(IllumePipeline.from_pretrained(folder), folder.name)
        report = run.report(PainterSubject(painter, SamplingOptions(), emoji.pixels.shape[-1]))
        scores = {metric: report.score(metric).mean or 0.0 for metric in _METRICS}
        return {**scores, "score": sum(scores.values()) / len(scores)}

    return judge
