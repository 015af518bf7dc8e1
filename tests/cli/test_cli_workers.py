"""Several workers on one job: parts that are started apart, and a crew that one command starts and keeps alive."""

import os
import signal
import time
from pathlib import Path

import pytest
from job_files import assert_whole, recorded, results, tokens, wait_for

from illume_fast.cli import main
from illume_fast.jobs import batch, supervisor

ROWS = 60


@pytest.fixture(scope="module")
def arguments(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(f"red apple number {i}" for i in range(ROWS)))
    return ("generate", path, "--model", tiny_model, "--batch-size", 2)


@pytest.fixture(scope="module")
def expected(arguments, tmp_path_factory):
    """The hashes of the pictures that one worker draws."""
    out = tmp_path_factory.mktemp("whole")
    assert main([str(a) for a in (*arguments, "--out", out)]) == 0
    return tokens(out)


@pytest.mark.parametrize("format", [pytest.param("png", marks=pytest.mark.slow), "webdataset"])
def test_three_processes_draw_a_third_each(spawn, arguments, expected, tmp_path, format):
    out = tmp_path / "out"
    common = (*arguments, "--out", out, "--format", format, "--per-file", 8)
    workers = [spawn(*common, "--shard", f"{number}/3") for number in (1, 2, 3)]
    ends = [(worker.communicate(timeout=120), worker.returncode) for worker in workers]
    assert [code for _, code in ends] == [0, 0, 0], ends
    drawn = [int(out.split(" pictures in")[0]) for (out, _), _ in ends]
    assert sum(drawn) == ROWS
    assert min(drawn) > 0
    assert_whole(out, expected)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
def test_a_crew_goes_on_when_a_worker_and_then_all_of_it_are_killed(spawn, cli, arguments, expected, tmp_path):
    out = tmp_path / "out"
    common = (*arguments, "--out", out, "--workers", 2)
    crew = spawn(*common)
    wait_for(crew, out, 2)
    first, second = children(crew.pid)
    # the other would be done with the whole of its part by the time the first is back
    os.kill(second, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    wait_for(crew, out, len(recorded(out)) + 2)
    workers = children(crew.pid)
    crew.kill()
    os.kill(second, signal.SIGCONT)
    _, err = crew.communicate(timeout=60)
    assert "on cpu was killed by SIGKILL; started again" in err
    assert len(recorded(out)) < ROWS, "the job was over before it could be killed"
    # workers end with the process that started them
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # another division of the work takes over what is there
    last = cli(*arguments, "--out", out)
    assert last.code == 0, last.err
    assert tokens(out) == expected
    assert len(list((out / "images").iterdir())) == ROWS


def test_a_worker_that_dies_again_and_again_is_said(monkeypatch, tiny_model, tmp_path, capfd):
    monkeypatch.setattr(supervisor.sys, "executable", "/bin/false")
    with pytest.raises(supervisor.WorkerError, match=r"worker 1/2 on cpu ended with exit code 1, for the 4th time"):
        batch.generate_batch(["red apple"], tmp_path / "out", tiny_model, workers=2)
    assert capfd.readouterr().err.count("started again") == 6


def test_an_error_of_a_worker_stops_the_crew(cli, arguments, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").write_text("in the way")
    shown = cli(*arguments, "--out", tmp_path / "out", "--workers", 2)
    assert shown.code == 2
    assert f"output folder {tmp_path / 'out'} cannot be written: File exists" in shown.err.splitlines()[-1]
    refused = cli(*arguments, "--out", tmp_path / "other", "--workers", 2, "--size", "48x48")
    assert "allowed are 64x64, 32x64" in refused.err.splitlines()[-1]


def test_prompts_of_python_and_their_failures_reach_every_worker(tiny_model, tmp_path):
    given = ["red apple", {"prompt": ""}, *(f"blue heart {i}" for i in range(6)), {"prompt": "x", "size": "1x1"}]
    seen = []
    done = batch.generate_batch(iter(given), tmp_path / "out", tiny_model, workers=2, on_progress=seen.append)
    assert (done.drawn, done.kept, done.failed) == (7, 0, 2)
    assert seen[-1].done == 9
    assert [row["id"] for row in results(tmp_path / "out", "failures.jsonl")] == ["#0001", "0008"]
