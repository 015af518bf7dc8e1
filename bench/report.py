"""One page of results, as Markdown and as an HTML file that needs nothing else: tables and plots."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illume_fast.bench.table import Row, digits, peers_of, runs_of, table

_TITLE = "Measured speed"
# what curves show beside the time of ours and of the peers: (key of a row, axis, whether it is logarithmic)
_RATES = (
    ("pictures_per_s", "pictures per second", True),
    ("tokens_per_s", "tokens per second", True),
    ("outside_share", "part of the time outside kernels", False),
)
_STYLE = """body{font:15px sans-serif;max-width:70em;margin:2em auto}
td,th{padding:2px 10px;text-align:left}
svg{max-width:100%}"""


def write_report(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `README.md`, `report.html` and the plots as SVG into `folder`; returns what was written.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("bench report: there are no results to show")
    folder.mkdir(parents=True, exist_ok=True)
    plots = {**({"speed-up": _speed_up(rows), "limit": _limit(rows)} if _compared(rows) else {}), **_curves(rows)}
    written = []
    for name, svg in plots.items():
        written.append(folder / f"{_file_name(name)}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    for name, text in (("README.md", _markdown(rows, list(plots))), ("report.html", _page(rows, plots))):
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8")
    return written


def _where(rows: Sequence[Row]) -> str:
    last = rows[-1]
    versions = ", ".join(
        f"{name} {last[name]}" for name in ("torch", "triton", "transformers", "faiss-cpu") if name in last
    )
    rates = f"{last['float32_GFLOP_per_s']:.0f} GFLOP/s in float32, {last['bfloat16_GFLOP_per_s']:.0f} in bfloat16"
    return (
        f"{last['device']}; reads {last['bandwidth_GB_per_s']:.0f} GB/s, multiplies {rates}; {versions}; commit "
        f"{last['commit']}, {last['date'][:10]}. "
        "Medians; the floor is what memory and multipliers of this machine allow."
    )


def _markdown(rows: Sequence[Row], plots: Sequence[str]) -> str:
    pictures = [f"![{name}]({_file_name(name)}.svg)\n" for name in plots]
    lines = [
        f"# {_TITLE}\n",
        _where(rows) + "\n",
        *(table(rows) if _compared(rows) else ()),
        "",
        "## All contestants\n",
        *_everyone(rows),
        "",
        *pictures,
    ]
    return "\n".join(lines)


def _everyone(rows: Sequence[Row]) -> list[str]:
    counted = any(_made(row) for row in rows)
    names = ["op", "case", "who", "median, ms", "20 % to 80 %, ms", "ours is faster by", *["per second"] * counted]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (op, case, _), run in runs_of(rows).items():
        for row in run:
            cells = (
                f"`{op}`",
                case,
                row["who"],
                digits(row["median_ms"]),
                f"{digits(row['p20_ms'])} to {digits(row['p80_ms'])}",
                f"{digits(row['ours_is_faster_by'])}x",
                *[_made(row)] * counted,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _made(row: Row) -> str:
    """What is made in a second, and by the floor, where that is counted."""
    return ", ".join(
        f"{digits(row[key])} {words} (floor {digits(row[f'floor_{key}'])})"
        for key, words in (("pictures_per_s", "pictures"), ("tokens_per_s", "tokens"))
        if key in row
    )


def _page(rows: Sequence[Row], plots: dict[str, str]) -> str:
    def as_html(lines: Sequence[str]) -> str:
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]
        body = "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(cell.strip('`'))}</{tag}>" for cell in row) + "</tr>\n"
            for i, row in enumerate(cells)
            for tag in ["th" if i == 0 else "td"]
        )
        return f"<table>\n{body}</table>\n"

    pictures = "".join(f"<h2>{html.escape(name)}</h2>\n{svg[svg.index('<svg') :]}\n" for name, svg in plots.items())
    compared = as_html(table(rows)) if _compared(rows) else ""
    return (
        f"<!doctype html>\n<meta charset=utf-8>\n<title>{_TITLE}</title>\n<style>{_STYLE}</style>\n<h1>{_TITLE}</h1>\n"
        f"<p>{html.escape(_where(rows))}</p>\n{compared}{pictures}<h2>All contestants</h2>\n"
        f"{as_html(_everyone(rows))}"
    )


def _bars(labels: Sequence[str], values: Sequence[float], axis: str, *, log: bool) -> str:
    figure, axes = _figure(height=0.3 * len(labels) + 1)
    axes.barh(range(len(labels)), values, color="#3b6ea8")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel(axis)
    for i, value in enumerate(values):
        axes.annotate(f" {digits(value)}", (value, i), va="center", fontsize=8)
    return _svg(figure)


def _compared(rows: Sequence[Row]) -> bool:
    """Whether any run has peers and is no part of a curve."""
    return any(key[2] is None and peers_of(run) for key, run in runs_of(rows).items())


def _speed_up(rows: Sequence[Row]) -> str:
    runs = [(key, run) for key, run in runs_of(rows).items() if key[2] is None and peers_of(run)]
    labels = [f"{op}, {case}" for (op, case, _), _ in runs]
    values = [min(row["median_ms"] for row in peers_of(run)) / run[0]["median_ms"] for _, run in runs]
    return _bars(labels, values, "times faster than the best peer", log=True)


def _limit(rows: Sequence[Row]) -> str:
    runs = [(key, run) for key, run in runs_of(rows).items() if key[2] is None]
    labels = [f"{op}, {case}" for (op, case, _), _ in runs]
    return _bars(labels, [run[0]["floor_ms"] / run[0]["median_ms"] for _, run in runs], "floor / ours", log=False)


def _curves(rows: Sequence[Row]) -> dict[str, str]:
    curves: dict[str, list[list[Row]]] = {}
    for run in runs_of(rows).values():
        if "curve" in run[0]:
            curves.setdefault(f"{run[0]['curve']}, over {run[0]['axis']}", []).append(run)
    plots = {}
    for name, runs in curves.items():
        plots[name] = _curve(runs, "median_ms", "floor_ms", "ms", log=True)
        for key, words, log in _RATES:
            if any(key in row for run in runs for row in run):
                plots[f"{name}: {words}"] = _curve(runs, key, f"floor_{key}", words, log=log)
    return plots


def _curve(runs: Sequence[list[Row]], key: str, floor: str, words: str, *, log: bool) -> str:
    """A line for each contestant that has `key`, and one for the floor."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        for row in run:
            if key in row:
                lines.setdefault(row["who"], []).append((row["at"], row[key]))
        if floor in run[0]:
            lines.setdefault("floor", []).append((run[0]["at"], run[0][floor]))
    figure, axes = _figure(height=4)
    for who, points in lines.items():
        style = {"color": "black", "linestyle": ":"} if who == "floor" else {"marker": "o", "markersize": 3}
        axes.plot(*zip(*sorted(points), strict=True), label=who, **style)
    axes.set_xscale("log", base=2)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1)
    axes.set_xlabel(runs[0][0]["axis"])
    axes.set_ylabel(words)
    axes.legend(fontsize=8)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # heavy, and needed here alone

    figure = Figure(figsize=(9, height), layout="tight")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-").strip("-")
