"""Whether anything became slower than in an earlier run."""

from collections.abc import Iterable
from typing import Any

from illume_fast.bench.table import runs_of

Row = dict[str, Any]

TOLERANCE = 0.10


def regressions(before: Iterable[Row], after: Iterable[Row]) -> list[str]:
    """A line for each case of ours in both runs that became slower beyond noise.

    Noise is judged by the runs' own spread and by the peers. Ours became slower if its median grew by more than 10 %
    and its fastest fifth is now slower than its slowest fifth was, both after dividing by how much slower the peers of
    the case became (the median of their ratios, at least 1): what slows everybody down is the machine.
    """
    earlier = runs_of(before)
    lines = []
    for key, rows in runs_of(after).items():
        if key not in earlier:
            continue
        old = {row["who"]: row for row in earlier[key]}
        shared = [row["median_ms"] / old[row["who"]]["median_ms"] for row in rows[1:] if row["who"] in old]
        machine = max(1.0, sorted(shared)[len(shared) // 2]) if shared else 1.0
        was, now = earlier[key][0], rows[0]
        slower = now["median_ms"] / was["median_ms"] / machine
        if slower > 1 + TOLERANCE and now["p20_ms"] / machine > was["p80_ms"]:
            op, case, _ = key
            lines.append(
                f"{op}, {case}: {was['median_ms']:.3g} ms became {now['median_ms']:.3g} ms, {slower - 1:.0%} slower"
                + (f" with the machine's own {machine - 1:.0%} taken off" if machine > 1 else "")
            )
    return lines
