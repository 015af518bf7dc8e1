"""A killed `generate`, started again, finishes what is missing and makes nothing twice."""

import json
import shutil
import signal
import time

import pytest

from illume_fast.cli import main

# pictures are finished in groups of at most 16: three interrupted runs leave some to the last
TOTAL = 144


def lines(folder):
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process, out, done):
    """Return when the ledger of the running process holds `done` lines."""
    deadline = time.monotonic() + 120
    while lines(out) < done:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def arguments(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(f"red apple number {i}" for i in range(TOTAL // 2)))
    return ("generate", path, "--model", tiny_model, "--num-images", 2, "--batch-size", 3)


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The output folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert main([str(a) for a in (*arguments, "--out", out)]) == 0
    return out


def test_stopped_at_several_moments(cli, spawn, arguments, whole, tmp_path):
    out = tmp_path / "out"
    seen = {}
    for attempt, how in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)):
        done = lines(out) + 1
        process = spawn(*arguments, "--out", out)
        wait_for(process, out, done)
        if attempt == 1:
            process.send_signal(signal.SIGSTOP)  # a fast machine would be done by the time the other has looked
            busy = cli(*arguments, "--out", out)
            assert (busy.code, "is in use by another run" in busy.err) == (2, True)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        assert ("interrupted; what was done is kept" in err) == (how == signal.SIGINT)
        count = lines(out)
        assert done <= count < TOTAL, "the run was over before it could be stopped"

        now = {p.name: p.stat().st_mtime_ns for p in (out / "images").glob("0*.png")}
        # what was finished before was not written again
        assert seen.items() <= now.items()
        # what has its line by now is finished; a picture may still wait for its line
        recorded = (out / "results.jsonl").read_bytes().splitlines()[:count]
        seen = {name: now[name] for name in (json.loads(r)["file"].removeprefix("images/") for r in recorded)}

    last = cli(*arguments, "--out", out)
    assert last.code == 0, last.err
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(records) == len({(r["id"], r["index"]) for r in records}) == TOTAL
    finished = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    assert seen.items() <= finished.items()
    assert set(finished) == {p.name for p in (whole / "images").iterdir()}
    for name in finished:
        assert (out / "images" / name).read_bytes() == (whole / "images" / name).read_bytes()
    assert (out / "contact_sheet.png").exists()


@pytest.mark.parametrize("tear", [3, 60])
def test_a_torn_ledger_is_no_obstacle(cli, arguments, whole, tmp_path, tear):
    out = shutil.copytree(whole, tmp_path / "out")
    ledger = out / "results.jsonl"
    before = ledger.read_bytes()
    ledger.write_bytes(before[:-tear])
    times = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    shown = cli(*arguments, "--out", out)
    assert shown.code == 0, shown.err
    assert "0 pictures in" in shown.out
    assert ledger.read_bytes() == before
    assert times == {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
