"""Results as a Markdown table, ours beside the best peer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

HEAD = ["| op | case | ours, ms | best peer, ms | faster by | floor, ms |", "|---|---|---|---|---|---|"]


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


def table(rows: Iterable[Row]) -> list[str]:
    """Lines of Markdown, one for each case that has peers; cases of curves are left out."""
    return HEAD + [
        _line(op, case, run) for (op, case, curve), run in runs_of(rows).items() if peers_of(run) and curve is None
    ]


def _line(op: str, case: str, run: list[Row]) -> str:
    ours = min((row for row in run if row["who"].startswith("illume_fast")), key=lambda row: row["median_ms"])
    best = min(peers_of(run), key=lambda row: row["median_ms"])
    peer = f"{digits(best['median_ms'])} ({best['who']})"
    faster = f"{digits(best['median_ms'] / ours['median_ms'])}x"
    cells = f"`{op}`", case, digits(ours["median_ms"]), peer, faster, digits(ours["floor_ms"])
    return f"| {' | '.join(cells)} |"


def digits(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{float(f'{value:.2g}'):g}"
