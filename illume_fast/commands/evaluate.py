"""`illume-fast evaluate`: how good a model is, with intervals and controls."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from illume_fast.commands.options import MODELS_OWN, NONE, ModelOptions, SamplingOptions, check_guidance, check_range
from illume_fast.commands.progress import Bar
from illume_fast.data.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SIZE = 64
Metric = Literal["psnr", "text_to_image", "editing", "naming"]
METRICS: tuple[Metric, ...] = ("psnr", "text_to_image", "editing", "naming")


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions, ModelOptions):
    """Score a model: reconstruction, drawing, editing and naming of emoji, with 95 % intervals and controls."""

    suite: Annotated[Positional[Literal["emoji"]], arg(metavar="emoji")]
    """What to evaluate on."""
    data: Annotated[Path, arg(metavar="DIR")]
    """Folder with emoji.csv, edits.csv and images/."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Rows to use. Text-to-image looks for the named picture among 100, in val_combo among its family."""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=NONE)] = None
    """Where to write all of it as JSON."""
    pictures: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """Folder for contact sheets of what was drawn, edited and named, chosen at random."""
    guidance: Annotated[tuple[float, ...], arg(metavar="G", help_behavior_hint=MODELS_OWN)] = ()
    """One or more scales to try. The headline figures are those at the model's own scale
    if it is among them, else at the first: they are never picked by their result."""
    metrics: Annotated[tuple[Metric, ...], arg(metavar="METRIC")] = METRICS
    """Which scores to take."""
    limit: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all of them)")] = None
    """Use a random N of the pictures and of the edits, always the same ones."""
    num_samples: Annotated[int, arg(metavar="N")] = 1
    """Pictures drawn per prompt and per edit."""

    def check(self) -> None:
        """Raise InputError for a value out of range."""
        SamplingOptions.check(self)
        for guidance in self.guidance:
            check_guidance(guidance)
        check_range("--limit", self.limit, 1, 10**9)
        check_range("--num-samples", self.num_samples, 1, 1000)
        # --seed also numbers the rows' own seeds
        check_range("--seed", self.seed, 0, 2**20)
        # found out now rather than after an hour's evaluation
        if self.json is not None:
            if not self.json.parent.is_dir():
                raise InputError(f"--json {self.json}: folder {self.json.parent} does not exist")
            if self.json.is_dir() or not os.access(self.json.parent, os.W_OK):
                raise InputError(f"--json {self.json} cannot be written; name a file in a folder that can")
        if self.pictures is not None and self.pictures.exists() and not self.pictures.is_dir():
            raise InputError(f"--pictures {self.pictures} is a file; name a folder")


def evaluate(options: Evaluate) -> None:
    """Print the table of scores, and write them as JSON if asked to.

    Raises:
        InputError: an option, the data or the model cannot be used, or the JSON file cannot be written.
    """
    options.check()
    from rich.console import Console

    from illume_fast.commands.subject import PainterSubject
    from illume_fast.data.emoji import load_emoji
    from illume_fast.evaluation.emoji_run import EmojiRun, EmojiSettings
    from illume_fast.evaluation.sheets import sheets
    from illume_fast.jobs.loading import ModelSource
    from illume_fast.jobs.painter import load_painter

    emoji = load_emoji(options.data, PICTURE_SIZE)
    with load_painter(ModelSource.of(options), options.backend, options.batch_size) as painter:
        own = {"text_to_image": painter.guidance, "editing": painter.edit_guidance}
        tried = {metric: options.guidance or (scale,) for metric, scale in own.items()}
        settings = EmojiSettings(
            split=options.split,
            guidance=tried,
            headline={metric: scale if scale in tried[metric] else tried[metric][0] for metric, scale in own.items()},
            metrics=options.metrics,
            limit=options.limit,
            num_samples=options.num_samples,
            seed=options.seed,
            notes={**painter.made_by(), **painter.settings(options)},
        )
        run = EmojiRun(emoji, settings)
        with Bar("evaluating", run.amount) as bar:
            report = run.report(PainterSubject(painter, options, PICTURE_SIZE, bar.advance))
    # a file or a pipe has no width that the table would have to fit
    Console(width=None if sys.stdout.isatty() else 120).print(report.table())
    print(f"{bar.done} pictures in {bar.seconds:.1f} s ({bar.rate:.1f} pictures/s)")
    if options.pictures is not None:
        _write_sheets(options.pictures, sheets(report, emoji, run.edits))
    if options.json is not None:
        _write(options.json, json.dumps(report.to_json(), indent=1) + "\n")


def _write_sheets(folder: Path, sheets: "dict[str, Image]") -> None:
    from illume_fast.data.png import write_png

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for metric, sheet in sheets.items():
            write_png(folder / f"{metric}.png", sheet, {})
    except OSError as error:
        raise InputError(f"--pictures {folder} cannot be written: {error.strerror or error}") from None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"--json {path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
