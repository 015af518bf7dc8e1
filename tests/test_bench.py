import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support import ROOT

from illume_fast.bench import libraries
from illume_fast.bench.case import Case
from illume_fast.bench.cases import all_cases, select
from illume_fast.bench.compare import regressions
from illume_fast.bench.report import with_tables, write_report
from illume_fast.bench.runner import run
from illume_fast.bench.table import generation_table, read_rows, table
from illume_fast.cli import main
from illume_fast.kernels import native

pytestmark = pytest.mark.skipif(native.missing is not None, reason=native.missing or "")


def tiny(check, **changes):
    return Case(
        op="max",
        name="64",
        make=lambda: (torch.arange(64.0),),
        ours=torch.max,
        peers={"sort": lambda x: x.sort().values[-1], "amax": torch.amax},
        check=check,
        bytes=256,
        **changes,
    )


def is_largest(result, x):
    torch.testing.assert_close(result, x[-1])


def test_rows_say_what_was_measured_and_where():
    rows = run(tiny(is_largest, scale=("max", "numbers", 64)), seconds=0.01)
    assert [row["who"] for row in rows] == ["illume_fast", "sort", "amax"]
    for row in rows:
        assert 0 < row["min_ms"] <= row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["floor_ms"] > 0
        assert row["device"]
        assert row["threads"] == torch.get_num_threads()
        assert row["date"]
        assert row["commit"]
        assert (row["curve"], row["axis"], row["at"]) == ("max", "numbers", 64)
        json.dumps(row)
    assert rows[0]["ours_is_faster_by"] == 1


def test_contestants_can_be_chosen():
    rows = run(tiny(is_largest), seconds=0.01, backends=("reference", "cpu"), peers=("sor",))
    assert [row["who"] for row in rows] == ["illume_fast (reference)", "illume_fast (cpu)", "sort"]


def test_wrong_results_are_not_timed():
    def refuse(result, x):
        raise RuntimeError("max: wrong")

    with pytest.raises(RuntimeError, match="max: wrong"):
        run(tiny(refuse), seconds=0.01)


def test_a_peer_that_fails_is_left_out_and_those_for_gpus_do_not_run_on_the_cpu(capsys):
    def broken(x):
        raise ImportError("no such kernel\nand more")

    case = tiny(is_largest, gpu_peers={"of a GPU": broken})
    case = replace(case, peers={"broken": broken, **case.peers})
    assert [row["who"] for row in run(case, seconds=0.01)] == ["illume_fast", "sort", "amax"]
    assert capsys.readouterr().out.split() == "left out: broken: ImportError: no such kernel".split()


def test_peers_of_libraries_are_those_installed(monkeypatch):
    monkeypatch.setattr(libraries, "find_spec", lambda module: None)
    assert libraries.rms_norm(1e-6) == libraries.nearest_code() == libraries.linear_cross_entropy() == {}
    monkeypatch.setattr(libraries, "find_spec", lambda module: module)
    assert set(libraries.rms_norm(1e-6)) == {"FlashInfer", "Liger"}
    assert set(libraries.nearest_code()) == {"flash-kmeans"}
    assert set(libraries.paged_attention(1.0)) == {"FlashInfer"}


def test_after_a_wrong_result_the_other_cases_are_timed(monkeypatch, capsys):
    def refuse(result, x):
        raise RuntimeError("max: 63 is wrong")

    cases = [tiny(refuse), replace(tiny(is_largest), name="right")]
    monkeypatch.setattr("illume_fast.bench.cases.all_cases", lambda curves: cases)
    assert main(["bench", "--seconds", "0.01"]) == 1
    printed = capsys.readouterr()
    assert "wrong: max, 64: max: 63 is wrong" in printed.err
    assert "amax" in printed.out


def test_every_case_has_a_name_of_its_own_and_peers():
    cases = all_cases()
    assert len({(case.op, case.name) for case in cases}) == len(cases)
    assert all(case.peers and case.bytes and callable(case.check) for case in cases)
    curves = all_cases(curves=True)
    assert all(case.scale is not None for case in curves)
    assert all(case.scale is None for case in cases)
    assert {case.op for case in select(cases, ("linear",), ("32 rows",))} == {"linear"}
    with pytest.raises(ValueError, match=r"no cases of op nothing; there are .*nearest_code"):
        select(cases, ("nothing",), ())
    with pytest.raises(ValueError, match="no case is called 7 x 7"):
        select(cases, (), ("7 x 7",))


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_runs_in_a_process_of_its_own():
    (case,) = select(all_cases(), ("nearest_code",), ("256 x 32768 x 32",))
    rows = run(case, seconds=0.01, peers=("faiss",))
    assert [row["who"] for row in rows] == ["illume_fast", "faiss", "faiss (threshold 20)"]


def row(case, who, ms, floor=0.0123, **more):
    spread = {"p20_ms": ms * 0.98, "p80_ms": ms * 1.02}
    return {"op": "max", "case": case, "who": who, "median_ms": ms, "floor_ms": floor, **spread, **more}


def test_the_table_shows_the_last_run_beside_the_best_peer():
    rows = [
        row("a", "illume_fast", 9.0), row("a", "slow", 99.0), row("b", "illume_fast", 2.0), row("b", "sort", 1.0),
        row("a", "illume_fast", 0.5), row("a", "slow", 80.0), row("a", "sort", 40.0),
        row("c", "illume_fast (cpu)", 3.0), row("c", "illume_fast (cuda)", 2.0), row("c", "sort", 4.0),
        row("d", "illume_fast", 1.0, curve="max"), row("d", "sort", 1.0, curve="max"),
    ]  # fmt: skip
    assert table(rows)[2:] == [
        "| `max` | a | 0.5 | 40 (sort) | 80x | 0.012 |",
        "| `max` | b | 2.0 | 1.0 (sort) | 0.5x | 0.012 |",
        "| `max` | c | 2.0 | 4.0 (sort) | 2.0x | 0.012 |",
    ]


def generated(case, who, ms, **more):
    return {**row(case, who, ms, **more), "op": "engine"}


def test_whole_generation_has_a_table_of_its_own_with_goals():
    rows = [
        generated("Janus", "illume_fast", 500, goal=4.0), generated("Janus", "transformers", 2500),
        generated("samples", "illume_fast", 8), generated("samples", "unshared", 9.6),
        generated("alone", "illume_fast", 8), row("a", "illume_fast", 1.0),
    ]  # fmt: skip
    assert generation_table(rows)[2:] == [
        "| Janus | 500 | 2500 (transformers) | 5.0x | 4x | 0.012 |",
        "| samples | 8.0 | 9.6 (unshared) | 1.2x | - | 0.012 |",
    ]
    assert table(rows) == []


def test_tables_are_drawn_anew_where_a_text_has_a_place_for_them():
    rows = [row("a", "illume_fast", 1.0), row("a", "sort", 4.0)]
    rows += [generated("Janus", "illume_fast", 500), generated("Janus", "transformers", 2500)]
    text = "before\n\n<!-- measured ops -->\nold\n<!-- end -->\n\n<!-- measured generation -->\n<!-- end -->\nafter\n"
    drawn = with_tables(text, rows)
    head, ops, rest = drawn.partition("\n".join(table(rows)) + "\n<!-- end -->")
    assert ops
    assert head == "before\n\n<!-- measured ops -->\n"
    assert rest.endswith("\n".join(generation_table(rows)) + "\n<!-- end -->\nafter\n")
    assert with_tables(drawn, rows) == drawn
    assert with_tables(drawn, []) == text.replace("old\n", "")
    with pytest.raises(ValueError, match="no place for a table"):
        with_tables("before", rows)
    with pytest.raises(ValueError, match="there is no <!-- end -->"):
        with_tables("<!-- measured ops -->\n", rows)


def test_slower_is_told_from_noise_and_from_a_slow_machine():
    before = [row("a", "illume_fast", 1.0), row("a", "sort", 4.0), row("b", "illume_fast", 1.0)]
    assert regressions(before, before) == []
    slower = [row("a", "illume_fast", 1.3), row("a", "sort", 4.0), row("b", "illume_fast", 0.5)]
    assert regressions(before, slower) == ["max, a: 1 ms became 1.3 ms, 30% slower"]
    assert regressions(before, [row("a", "illume_fast", 1.3), row("a", "sort", 5.2)]) == []
    assert regressions(before, [row("a", "illume_fast", 1.09), row("a", "sort", 4.0)]) == []
    noisy = {**row("a", "illume_fast", 1.3), "p20_ms": 1.01}
    assert regressions(before, [noisy, row("a", "sort", 4.0)]) == []
    both = regressions(before, [row("a", "illume_fast", 2.0), row("a", "sort", 5.0)])
    assert both == ["max, a: 1 ms became 2 ms, 60% slower with the machine's own 25% taken off"]


def test_the_command_times_saves_compares_and_reports(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    chosen = ["--op", "rms_norm", "--case", "2 x 256", "--peer", "Hugging", "--seconds", "0.05"]
    assert main(["bench", *chosen, "--json", str(file)]) == 0
    assert "illume_fast" in capsys.readouterr().out
    rows = read_rows(file)
    assert [r["who"] for r in rows] == ["illume_fast", "Hugging Face"]
    fast = tmp_path / "fast.jsonl"
    fast.write_text("".join(json.dumps({**r, "median_ms": 1e-6, "p80_ms": 1e-6}) + "\n" for r in rows[:1]))
    assert main(["bench", *chosen, "--compare", str(fast)]) == 1
    assert "slower: rms_norm, 2 x 256" in capsys.readouterr().err
    assert main(["bench", "report", str(file), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<svg" in page
    assert "Hugging Face" in page
    assert "| `rms_norm` | 2 x 256" in (tmp_path / "page" / "README.md").read_text()
    text = tmp_path / "text.md"
    text.write_text("<!-- measured ops -->\n<!-- end -->\n")
    assert main(["bench", "report", str(file), "--out", str(tmp_path / "page"), "--tables", str(text)]) == 0
    assert "| `rms_norm` | 2 x 256" in text.read_text()


def test_options_of_several_words_may_be_given_again(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    chosen = ["--op", "rms_norm", "--op", "gather_rows", "--case", "2 x 256,", "nothing", "--case", "2 of"]
    chosen += ["--peer", "F.rms", "--peer", "select", "--backend", "cpu", "--backend", "reference"]
    assert main(["bench", *chosen, "--seconds", "0.01", "--json", str(file)]) == 0
    assert [(r["op"], r["who"]) for r in read_rows(file)] == [
        ("rms_norm", "illume_fast (cpu)"), ("rms_norm", "illume_fast (reference)"), ("rms_norm", "F.rms_norm"),
        ("gather_rows", "illume_fast (cpu)"), ("gather_rows", "illume_fast (reference)"),
        ("gather_rows", "torch index_select"),
    ]  # fmt: skip
    assert "\n2 cases in 0 min" in capsys.readouterr().out


def test_curves_become_plots(tmp_path):
    machine = {"device": "d", "bandwidth_GB_per_s": 1.0, "float32_GFLOP_per_s": 1.0, "bfloat16_GFLOP_per_s": 1.0}
    more = {"ours_is_faster_by": 1.0, "commit": "c", "date": "2026-01-01", "curve": "max", "axis": "numbers", **machine}
    rows = [row(str(n), who, ms, at=n, **more) for n in (1, 2) for who, ms in (("illume_fast", n), ("sort", 2 * n))]
    names = {path.name for path in write_report(rows, tmp_path)}
    assert "max-over-numbers.svg" in names
    first = (tmp_path / "max-over-numbers.svg").read_text()
    write_report(rows, tmp_path)
    assert (tmp_path / "max-over-numbers.svg").read_text() == first  # nothing in it is random
    with pytest.raises(ValueError, match="no results"):
        write_report([], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "nothing"], "no cases of op nothing"),
        (["--seconds", "0"], "--seconds must be positive"),
        (["--json", "nowhere/rows.jsonl"], "folder nowhere does not exist"),
        (["--compare", "absent.jsonl"], "absent.jsonl"),
        (["report", "absent.jsonl", "--out", "page"], "absent.jsonl"),
    ],
)
def test_bad_options_get_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("pytest_benchmark") is None, reason="pytest-benchmark is not installed")
def test_the_cases_run_in_pytest():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "bench/pytest_cases.py",
        "-k",
        "rms_norm and 256",
        "--benchmark-disable",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
