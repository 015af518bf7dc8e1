"""Results as Markdown tables, ours beside the best peer: one of ops, one of whole generation."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ENGINE = "engine"  # what stands for the op where whole generation was timed
HEAD = ["| op | case | ours, ms | best peer, ms | faster by | floor, ms |", "|---|---|---|---|---|---|"]
GENERATION_HEAD = ["| case | ours, ms | best peer, ms | faster by | goal | floor, ms |", "|---|---|---|---|---|---|"]


def read_rows(path: Path) -> list[Row]:
    """The rows that `illume-fast bench --json` wrote, or a JSON list of such. ValueError names a bad line."""
    rows: list[Row] = []
    text = path.read_text(encoding="utf-8")
    if text.startswith("["):
        return json.loads(text)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return rows


Key = tuple[str, str, str | None]


def runs_of(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """The rows of the last run of every (op, case, curve or None). They follow each other there, ours first."""
    runs: dict[Key, list[Row]] = {}
    for row in rows:
        key = row["op"], row["case"], row.get("curve")
        if row["who"].startswith("illume_fast") and not (key in runs and _goes_on(runs[key], row)):
            runs[key] = []
        runs[key].append(row)
    return runs


def _goes_on(run: list[Row], row: Row) -> bool:
    """Whether a row of ours is another backend of the same run."""
    return all(r["who"].startswith("illume_fast") for r in run) and row["who"] not in [r["who"] for r in run]


def peers_of(run: list[Row]) -> list[Row]:
    """The rows of a run that are not ours, and not of a part of the work alone, whose names begin with "only"."""
    return [row for row in run if not row["who"].startswith(("illume_fast", "only "))]


def compared(rows: Iterable[Row], *, generation: bool = False) -> dict[Key, list[Row]]:
    """The last runs of ops, or of whole `generation`, that have peers and are no part of a curve."""
    return {
        key: run
        for key, run in runs_of(rows).items()
        if (key[0] == ENGINE) == generation and key[2] is None and peers_of(run)
    }


def table(rows: Iterable[Row]) -> list[str]:
    """Lines of Markdown, one for each case of an op that was compared; none where there is no such case."""
    lines = [_line((f"`{op}`", case), run) for (op, case, _), run in compared(rows).items()]
    return [*HEAD, *lines] if lines else []


def generation_table(rows: Iterable[Row]) -> list[str]:
    """The same of whole generation, with the goals that were set."""
    lines = [_line((case,), run, goals=True) for (_, case, _), run in compared(rows, generation=True).items()]
    return [*GENERATION_HEAD, *lines] if lines else []


def best_of(run: list[Row]) -> tuple[Row, Row]:
    """The fastest of ours and the fastest peer of a run that has peers."""
    ours = [row for row in run if row["who"].startswith("illume_fast")]
    best, peer = (min(some, key=lambda row: row["median_ms"]) for some in (ours, peers_of(run)))
    return best, peer


def _line(named: tuple[str, ...], run: list[Row], *, goals: bool = False) -> str:
    ours, best = best_of(run)
    peer = f"{digits(best['median_ms'])} ({best['who']})"
    faster = f"{digits(best['median_ms'] / ours['median_ms'])}x"
    goal = [f"{run[0]['goal']:g}x" if "goal" in run[0] else "-"] * goals
    cells = *named, digits(ours["median_ms"]), peer, faster, *goal, digits(ours["floor_ms"])
    return f"| {' | '.join(cells)} |"


def digits(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{float(f'{value:.2g}'):g}"
