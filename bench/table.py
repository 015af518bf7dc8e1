"""python bench/table.py RESULTS.jsonl: the last run of every case as a Markdown table, ours beside the best peer."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = ["| op | case | ours, ms | best peer, ms | faster by | floor, ms |", "|---|---|---|---|---|---|"]


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Lines of Markdown. A case's rows follow each other in a run, ours first; later runs replace earlier ones."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["op"], row["case"]
        if row["who"] == "illume_fast":
            runs[key] = []
        runs[key].append(row)
    return HEAD + [_line(op, case, *run) for (op, case), run in runs.items()]


def _line(op: str, case: str, ours: dict[str, Any], *peers: dict[str, Any]) -> str:
    best = min(peers, key=lambda row: row["median_ms"])
    peer = f"{_digits(best['median_ms'])} ({best['who']})"
    faster = f"{_digits(best['median_ms'] / ours['median_ms'])}x"
    cells = f"`{op}`", case, _digits(ours["median_ms"]), peer, faster, _digits(ours["floor_ms"])
    return f"| {' | '.join(cells)} |"


def _digits(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{float(f'{value:.2g}'):g}"


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    print("\n".join(table(json.loads(line) for line in lines)))
