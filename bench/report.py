"""One page of results, as Markdown and as an HTML file that needs nothing else; and the tables of another text."""

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from illume_fast.bench.plots import plots
from illume_fast.bench.table import ENGINE, Row, digits, generation_table, runs_of, table

_TITLE = "Measured speed"
_HOW = "Measured by `illume-fast bench`, of which docs/benchmarks.md tells."
_VERSIONS = ("torch", "triton", "transformers", "faiss-cpu")
_STYLE = """body{font:15px sans-serif;max-width:70em;margin:2em auto}
td,th{padding:2px 10px;text-align:left}
svg{max-width:100%}"""
# what stands between `<!-- measured NAME -->` and `<!-- end -->`
_TABLES: dict[str, Callable[[Iterable[Row]], list[str]]] = {"ops": table, "generation": generation_table}
_END = "<!-- end -->"


def write_report(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `README.md`, `report.html` and the plots as SVG into `folder`; returns what was written.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("bench report: there are no results to show")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(rows)
    written = []
    for name, svg in drawn.items():
        written.append(folder / f"{_file_name(name)}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    for name, text in (("README.md", _markdown(rows, list(drawn))), ("report.html", _page(rows, drawn))):
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8")
    return written


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """The text with its tables drawn anew.

    They stand between `<!-- measured ops -->` or `<!-- measured generation -->` and `<!-- end -->`.

    Raises:
        ValueError: it has no such place, or one without an end.
    """
    found = False
    for name, lines in _TABLES.items():
        head, begin, rest = text.partition(f"<!-- measured {name} -->\n")
        if begin:
            found = True
            _, end, tail = rest.partition(_END)
            if not end:
                raise ValueError(f"bench report: there is no {_END} after {begin.strip()}")
            text = f"{head}{begin}{''.join(line + chr(10) for line in lines(rows))}{end}{tail}"
    if not found:
        raise ValueError(f"bench report: no place for a table, which would be between <!-- measured ops --> and {_END}")
    return text


def _parts(rows: Sequence[Row]) -> list[tuple[str, list[Row], list[str]]]:
    """(title, rows, table) of whole generation and of the ops, where there are any."""
    generation = [row for row in rows if row["op"] == ENGINE]
    ops = [row for row in rows if row["op"] != ENGINE]
    parts = ("Whole generation", generation, generation_table(generation)), ("Ops", ops, table(ops))
    return [part for part in parts if part[1]]


def _where(rows: Sequence[Row]) -> str:
    last = rows[-1]
    versions = ", ".join(f"{name} {last[name]}" for name in _VERSIONS if name in last)
    rates = f"{last['float32_GFLOP_per_s']:.0f} GFLOP/s in float32, {last['bfloat16_GFLOP_per_s']:.0f} in bfloat16"
    measured = dict.fromkeys(f"commit {row['commit']}, {row['date'][:10]}" for row in rows)
    return (
        f"{last['device']}; reads {last['bandwidth_GB_per_s']:.0f} GB/s, multiplies {rates}; {versions}; "
        f"{'; '.join(measured)}. Medians; the floor is what memory and multipliers of this machine allow."
    )


def _markdown(rows: Sequence[Row], plots: Sequence[str]) -> str:
    lines = [f"# {_TITLE}\n", _HOW + "\n"]
    for title, some, lines_of_table in _parts(rows):
        lines += [f"## {title}\n", _where(some) + "\n", *lines_of_table, *[""] * bool(lines_of_table)]
    lines += ["## Plots\n", *(f"![{name}]({_file_name(name)}.svg)\n" for name in plots)]
    lines += ["## All contestants\n", *_everyone(rows), ""]
    if left_out := _left_out(rows):
        lines += ["Left out:\n", *(f"- {line}" for line in left_out), ""]
    return "\n".join(lines)


def _everyone(rows: Sequence[Row]) -> list[str]:
    counted = any(_said(row) for row in rows)
    names = ["op", "case", "who", "median, ms", "20 % to 80 %, ms", "ours is faster by", *["that is"] * counted]
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
                *[_said(row)] * counted,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _said(row: Row) -> str:
    """What is made in a second, and by the floor, where that is counted; and the share of time outside kernels."""
    said = [
        f"{digits(row[key])} {of}/s (floor {digits(row[f'floor_{key}'])})"
        for of in ("steps", "pictures", "tokens")
        if (key := f"{of}_per_s") in row
    ]
    if "outside_share" in row:
        said.append(f"{row['outside_share']:.1%} of the time outside kernels")
    return ", ".join(said)


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Peers that were not timed, and why."""
    return [
        f"{case}: {name}: {reason}"
        for (_, case, _), run in runs_of(rows).items()
        for name, reason in run[0].get("left_out", {}).items()
    ]


def _page(rows: Sequence[Row], plots: dict[str, str]) -> str:
    body = "".join(
        f"<h2>{title}</h2>\n<p>{html.escape(_where(some))}</p>\n{_table_as_html(lines)}"
        for title, some, lines in _parts(rows)
    )
    body += "".join(f"<h2>{html.escape(name)}</h2>\n{svg[svg.index('<svg') :]}\n" for name, svg in plots.items())
    body += f"<h2>All contestants</h2>\n{_table_as_html(_everyone(rows))}"
    if left_out := _left_out(rows):
        body += "<p>Left out:</p>\n<ul>" + "".join(f"<li>{html.escape(line)}</li>\n" for line in left_out) + "</ul>\n"
    return (
        f"<!doctype html>\n<meta charset=utf-8>\n<title>{_TITLE}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{_TITLE}</h1>\n{body}"
    )


def _table_as_html(lines: Sequence[str]) -> str:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]
    body = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell.strip('`'))}</{tag}>" for cell in row) + "</tr>\n"
        for i, row in enumerate(cells)
        for tag in ["th" if i == 0 else "td"]
    )
    return f"<table>\n{body}</table>\n" if lines else ""


def _file_name(name: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)
