"""A killed `generate`, started again, finishes what is missing and makes nothing twice."""

import json
import signal
import time

import pytest

TOTAL = 60


def lines(folder):
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_at(process, out, done):
    """SIGKILL as soon as the ledger holds `done` lines; how many there were then."""
    deadline = time.monotonic() + 60
    while lines(out) < done:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return lines(out)


@pytest.fixture(scope="module")
def arguments(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(f"red apple number {i}" for i in range(TOTAL // 2)))
    return ("generate", path, "--model", tiny_model, "--num-images", 2, "--batch-size", 3)


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The pictures of a run that nobody disturbed."""
    from illume_fast.cli import main

    out = tmp_path_factory.mktemp("whole")
    assert main([str(a) for a in (*arguments, "--out", out)]) == 0
    return {path.name: path.read_bytes() for path in (out / "images").iterdir()}


def test_killed_several_times(cli, spawn, arguments, whole, tmp_path):
    out = tmp_path / "out"
    seen = {}
    for done in (1, 7, 30):
        process = spawn(*arguments, "--out", out)
        count = killed_at(process, out, done)
        assert done <= count < TOTAL, "the run was over before it could be killed"
        now = {p.name: p.stat().st_mtime_ns for p in (out / "images").glob("0*.png")}
        # what was finished before was not written again
        assert seen.items() <= now.items()
        # what has its line by now is finished; a picture may still wait for its line
        recorded = [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines(keepends=True)[:count]]
        seen = {name: now[name] for name in (r["file"].removeprefix("images/") for r in recorded)}

    last = cli(*arguments, "--out", out)
    assert last.code == 0, last.err
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(records) == len({(r["id"], r["index"]) for r in records}) == TOTAL
    finished = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    assert seen.items() <= finished.items()
    assert {name: (out / "images" / name).read_bytes() for name in finished} == whole
    assert (out / "contact_sheet.png").exists()


@pytest.mark.parametrize("tear", [3, 60])
def test_a_torn_ledger_is_no_obstacle(cli, arguments, tmp_path, tear):
    out = tmp_path / "out"
    assert cli(*arguments, "--out", out).code == 0
    ledger = out / "results.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-tear])
    times = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    shown = cli(*arguments, "--out", out)
    assert shown.code == 0, shown.err
    assert "0 pictures in" in shown.out
    assert ledger.read_bytes() == whole
    assert times == {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(cli, spawn, arguments, tmp_path):
    out = tmp_path / "out"
    process = spawn(*arguments, "--out", out)
    try:
        while not lines(out):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.001)
        shown = cli(*arguments, "--out", out)
        assert shown.code == 2
        assert "is in use by another run" in shown.err
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_keeps_what_is_done(spawn, arguments, tmp_path):
    out = tmp_path / "out"
    process = spawn(*arguments, "--out", out)
    while not lines(out):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was done is kept" in err
    assert lines(out) == len(list((out / "images").iterdir()))
