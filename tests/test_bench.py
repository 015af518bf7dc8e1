import json

import pytest
import torch
from support import ROOT

from illume_fast.kernels import native

pytestmark = pytest.mark.skipif(native.missing is not None, reason=native.missing or "")


def tiny(check):
    from timing import Case

    return Case(
        op="max",
        name="64",
        make=lambda: (torch.arange(64.0),),
        ours=torch.max,
        peers={"sort": lambda x: x.sort().values[-1]},
        check=check,
        bytes=256,
    )


def test_rows_say_what_was_measured_and_where():
    from timing import run

    rows = run(tiny(lambda result, x: torch.testing.assert_close(result, x[-1])), seconds=0.01)
    assert [row["who"] for row in rows] == ["illume_fast", "sort"]
    for row in rows:
        assert 0 < row["min_ms"] <= row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["floor_ms"] > 0
        assert row["device"]
        assert row["commit"]
        json.dumps(row)
    assert rows[0]["ours_is_faster_by"] == 1


def test_wrong_results_are_not_timed():
    from timing import run

    def refuse(result, x):
        raise RuntimeError("max: wrong")

    with pytest.raises(RuntimeError, match="max: wrong"):
        run(tiny(refuse), seconds=0.01)


def test_every_family_is_listed():
    from run import FAMILIES

    files = {path.stem for path in (ROOT / "bench").glob("*.py")} - {"run", "table", "timing", "cases"}
    assert files == set(FAMILIES)


def test_the_table_shows_the_last_run_beside_the_best_peer():
    from table import table

    def row(case, who, ms):
        return {"op": "max", "case": case, "who": who, "median_ms": ms, "floor_ms": 0.0123}

    rows = [
        row("a", "illume_fast", 9.0), row("a", "slow", 99.0), row("b", "illume_fast", 2.0), row("b", "sort", 1.0),
        row("a", "illume_fast", 0.5), row("a", "slow", 80.0), row("a", "sort", 40.0),
    ]  # fmt: skip
    assert table(rows)[2:] == [
        "| `max` | a | 0.5 | 40 (sort) | 80x | 0.012 |",
        "| `max` | b | 2.0 | 1.0 (sort) | 0.5x | 0.012 |",
    ]
