"""The evaluation as a JSON document and as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from illume_fast.evaluation.bootstrap import Interval, Score
from illume_fast.evaluation.emoji import Evaluation

# what the JSON calls a metric: how the table does
METRICS = {
    "psnr": "tokenizer PSNR, dB",
    "text_to_image": "text-to-image, %",
    "editing": "editing, %",
    "naming": "exact name, %",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found on one split: an `Evaluation` per metric that was asked for, at one guidance.

    `sweep` holds text-to-image and editing at each guidance that was tried; `settings` says how all of it was made.
    """

    evaluations: Mapping[str, Evaluation]
    sweep: Mapping[float, Mapping[str, Evaluation]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def score(self, metric: str) -> Score:
        """The score of a metric, with None in it where it was not asked for or has no rows."""
        return self.evaluations[metric].score if metric in self.evaluations else Score()

    def to_json(self) -> dict[str, Any]:
        """Plain averages by metric, beside macro averages, groups, intervals, controls and settings.

        Shares are fractions of 1, PSNR is in dB, and what a split has no rows for is None.
        """
        scores = {metric: self.score(metric) for metric in METRICS}
        groups = sorted({group for s in scores.values() for group in s.by_group})
        return {
            **{metric: s.mean for metric, s in scores.items()},
            "macro": {metric: s.macro for metric, s in scores.items()},
            "by_group": {group: {m: s.by_group.get(group) for m, s in scores.items()} for group in groups},
            "intervals": {
                **{metric: s.interval for metric, s in scores.items()},
                "macro": {metric: s.macro_interval for metric, s in scores.items()},
            },
            "controls": {
                metric: {name: _plain(control) for name, control in evaluation.controls.items()}
                for metric, evaluation in self.evaluations.items()
                if evaluation.controls
            },
            "sweep": [
                {"guidance": guidance, **{metric: _plain(e.score) for metric, e in found.items()}}
                for guidance, found in self.sweep.items()
            ],
            "settings": {
                **self.settings,
                "rows": {metric: s.rows for metric, s in scores.items()},
                "pictures": {metric: s.pictures for metric, s in scores.items()},
                "left_out": {metric: e.left_out for metric, e in self.evaluations.items()},
            },
        }

    def table(self) -> Table:
        """Averages with 95 % intervals, controls indented under their metric, then the groups."""
        table = Table(
            title=_title(self.settings),
            title_justify="left",
            caption="text-to-image and editing: retrieval@1; macro: every group weighs alike",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        table.add_column("score", no_wrap=True)
        for heading in ("rows", "average", "95 % interval", "macro", "95 % interval "):
            table.add_column(heading, justify="right")
        for metric, label in METRICS.items():
            if metric in self.evaluations:
                self._add_metric(table, metric, label)
        return table

    def _add_metric(self, table: Table, metric: str, label: str) -> None:
        evaluation = self.evaluations[metric]
        table.add_row(label, *_cells(metric, evaluation.score))
        for name, control in evaluation.controls.items():
            table.add_row(f"  control: {name.replace('_', ' ')}", *_cells(metric, control), style="dim")
        if len(self.sweep) > 1:
            for guidance, found in self.sweep.items():
                if metric in found:
                    table.add_row(f"  guidance {guidance:g}", *_cells(metric, found[metric].score))
        if len(evaluation.score.by_group) > 1:
            for group, value in evaluation.score.by_group.items():
                table.add_row(f"  {group}", "", _number(metric, value), style="dim")
        table.add_section()


def _plain(score: Score) -> dict[str, Any]:
    return {
        "mean": score.mean,
        "interval": score.interval,
        "macro": score.macro,
        "macro_interval": score.macro_interval,
        "by_group": score.by_group,
    }


def _title(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {settings[key]}" for key in ("model", "split") if key in settings)


def _cells(metric: str, score: Score) -> list[str]:
    return [
        str(score.rows),
        _number(metric, score.mean),
        _range(metric, score.interval),
        _number(metric, score.macro),
        _range(metric, score.macro_interval),
    ]


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.2f}" if metric == "psnr" else f"{100 * value:.1f}"


def _range(metric: str, interval: Interval | None) -> str:
    return "" if interval is None else f"{_number(metric, interval[0])} to {_number(metric, interval[1])}"
