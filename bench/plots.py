"""Plots of results as SVG: speed-ups, how near the floor is, and curves."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illume_fast.bench.table import Row, best_of, compared, digits, runs_of

# how much of the time may pass outside the kernels when 64 pictures are drawn together
OUTSIDE_GOAL = 0.10


@dataclass(frozen=True)
class Quantity:
    """What a curve may show: the key of a row, words for the axis, and the key of the floor's."""

    key: str
    words: str
    floor: str
    log: bool = True


TIME = Quantity("median_ms", "ms", "floor_ms")
SHARE = Quantity("outside_share", "part of the time outside kernels", "", log=False)
RATES = [Quantity(f"{of}_per_s", f"{of} per second", f"floor_{of}_per_s") for of in ("steps", "pictures", "tokens")]


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """All plots by name, those of whole generation first.

    A curve that counts something is shown in a second, with all others that count it over the same axis; every other
    curve is shown in ms, by itself.
    """
    return {**_bars_of(rows, generation=True), **_rates(rows), **_bars_of(rows, generation=False), **_times(rows)}


def _bars_of(rows: Sequence[Row], *, generation: bool) -> dict[str, str]:
    runs = compared(rows, generation=generation)
    if not runs:
        return {}
    pairs = [best_of(run) for run in runs.values()]
    labels = [case if generation else f"{op}, {case}" for op, case, _ in runs]
    of = "whole generation: " * generation
    faster = [peer["median_ms"] / ours["median_ms"] for ours, peer in pairs]
    goals = [run[0].get("goal") for run in runs.values()]
    near = [ours["floor_ms"] / ours["median_ms"] for ours, _ in pairs]
    return {
        f"{of}speed-up": _bars(labels, faster, "times faster than the best peer", goals=goals, log=True),
        f"{of}limit": _bars(labels, near, "floor / ours"),
    }


def _curves(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[Row]]]:
    """The runs of each (curve, axis)."""
    curves: dict[tuple[str, str], list[list[Row]]] = {}
    for run in runs_of(rows).values():
        if "curve" in run[0]:
            curves.setdefault((run[0]["curve"], run[0]["axis"]), []).append(run)
    return curves


def _rates(rows: Sequence[Row]) -> dict[str, str]:
    together: dict[str, tuple[Quantity, str, dict[str, list[list[Row]]]]] = {}
    for quantity in (*RATES, SHARE):
        for (curve, axis), runs in _curves(rows).items():
            if quantity.key in runs[0][0]:
                _, _, curves = together.setdefault(f"{quantity.words}, over {axis}", (quantity, axis, {}))
                curves[curve] = runs
    return {name: _plot(quantity, axis, curves) for name, (quantity, axis, curves) in together.items()}


def _times(rows: Sequence[Row]) -> dict[str, str]:
    counted = [quantity.key for quantity in RATES]
    return {
        f"{curve}, over {axis}": _plot(TIME, axis, {curve: runs})
        for (curve, axis), runs in _curves(rows).items()
        if not any(key in runs[0][0] for key in counted)
    }


def _plot(quantity: Quantity, axis: str, curves: Mapping[str, list[list[Row]]]) -> str:
    """A line for each contestant of each curve that has the quantity, and one for each floor.

    Where something is counted each curve has a colour, ours a full line and peers a dashed one; where there are times,
    each contestant has a colour.
    """
    figure, axes = _figure(height=4)
    for number, (curve, runs) in enumerate(curves.items()):
        alone = quantity is TIME
        whos = list(dict.fromkeys(row["who"] for run in runs for row in run if quantity.key in row))
        for place, who in enumerate(whos):
            points = {row["at"]: row[quantity.key] for run in runs for row in run if row["who"] == who}
            words = [who] if alone else [curve] if place == 0 else [curve, who]
            colour, style = (place, "-") if alone else (number, "-" if place == 0 else "--")
            axes.plot(*_sorted(points), style, color=f"C{colour}", marker="o", markersize=3, label=", ".join(words))
        if floor := {run[0]["at"]: run[0][quantity.floor] for run in runs if quantity.floor in run[0]}:
            of = {"color": "black", "label": "floor"} if alone else {"color": f"C{number}", "label": f"{curve}, floor"}
            axes.plot(*_sorted(floor), ":", **of)
    if quantity is SHARE:
        axes.axhline(OUTSIDE_GOAL, color="black", linewidth=0.8, label=f"goal at 64: {OUTSIDE_GOAL:.0%}")
    _scale(axes, quantity, sorted({run[0]["at"] for runs in curves.values() for run in runs}))
    axes.set_xlabel(axis)
    axes.set_ylabel(quantity.words)
    axes.legend(fontsize=8)
    return _svg(figure)


def _sorted(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    places = sorted(points)
    return places, [points[place] for place in places]


def _scale(axes: Any, quantity: Quantity, places: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator, PercentFormatter

    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    if quantity.log:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _plain_numbers(axis: Any) -> None:
    """1, 2, 5, 10 and so on along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _bars(
    labels: Sequence[str],
    values: Sequence[float],
    axis: str,
    *,
    goals: Sequence[float | None] = (),
    log: bool = False,
) -> str:
    """Bars, a line at 1, and a mark at each goal."""
    figure, axes = _figure(height=0.3 * len(labels) + 1)
    axes.barh(range(len(labels)), values, color="#3b6ea8")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    axes.axvline(1.0, color="black", linewidth=0.8)
    marks = [(goal, i) for i, goal in enumerate(goals) if goal is not None]
    if marks:
        axes.plot(*zip(*marks, strict=True), "|", color="black", markersize=14, markeredgewidth=2)
    axes.set_xlabel(f"{axis} (a black mark is the goal)" if marks else axis)
    for i, value in enumerate(values):
        axes.annotate(f" {digits(value)}", (value, i), va="center", fontsize=8)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # heavy, and needed here alone

    figure = Figure(figsize=(9, height), layout="tight")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "illume_fast"}):  # the same figures give the same file
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
