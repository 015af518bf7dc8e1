"""A killed `generate`, started again, finishes what is missing and makes nothing twice."""

import random
import shutil
import signal
import time

import pytest
from job_files import assert_whole, recorded, tokens, wait_for

from illume_fast.cli import main
from illume_fast.model.checkpoint import DEMO

TOTAL = 144
FORMATS = {"png": (), "webdataset": ("--format", "webdataset", "--per-file", 10)}


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


def times(out):
    return {p.name: p.stat().st_mtime_ns for p in (out / "images").glob("0*.png")}


@pytest.mark.parametrize("format", ["png", pytest.param("webdataset", marks=pytest.mark.slow)])
def test_stopped_at_several_moments(cli, spawn, arguments, whole, tmp_path, format):
    out = tmp_path / "out"
    seen = {}
    for attempt, how in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)):
        done = len(recorded(out)) + 1
        process = spawn(*arguments, *FORMATS[format], "--out", out)
        wait_for(process, out, done)
        if attempt == 1:
            process.send_signal(signal.SIGSTOP)  # a fast machine would be done by the time the other has looked
            busy = cli(*arguments, *FORMATS[format], "--out", out)
            assert (busy.code, "is in use by another run" in busy.err) == (2, True)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        assert ("interrupted; what was done is kept" in err) == (how == signal.SIGINT)
        assert done <= len(recorded(out)) < TOTAL, "the run was over before it could be stopped"
        # what was finished before was not written again
        now = times(out)
        assert seen.items() <= now.items()
        seen = {name: now[name] for name in (f"{id}_{k}.png" for id, k in recorded(out)) if name in now}
    assert len(tokens(out)) == len(recorded(out, ("done",))), "an interrupted run says what it did"

    last = cli(*arguments, *FORMATS[format], "--out", out)
    assert last.code == 0, last.err
    assert_whole(out, tokens(whole))
    assert seen.items() <= times(out).items()
    for name in times(out):
        assert (out / "images" / name).read_bytes() == (whole / "images" / name).read_bytes()
    assert (out / "contact_sheet.png").exists()


@pytest.mark.parametrize("lost", ["ledger.sqlite", "results.jsonl"])
def test_a_lost_list_is_made_again_from_the_pictures(cli, arguments, whole, tmp_path, lost):
    out = shutil.copytree(whole, tmp_path / "out")
    before = times(out)
    (out / lost).unlink()
    shown = cli(*arguments, "--out", out)
    assert shown.code == 0, shown.err
    assert "0 pictures in" in shown.out
    assert times(out) == before
    assert (out / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")
@pytest.mark.parametrize("format,kills", [("png", 100), ("webdataset", 30)])
def test_killed_at_many_random_moments(spawn, tmp_path, format, kills):
    """2 000 rows of the demo model, with a SIGKILL every 15 pictures or so, and some before the first."""
    rows, chance = 20 * kills, random.Random(0)
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("\n".join(f"red apple number {i}" for i in range(rows)))
    arguments = ("generate", prompts, "--batch-size", 8, *FORMATS[format])
    for attempt in range(kills):
        process = spawn(*arguments, "--out", out)
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, 4))
        else:
            wait_for(process, out, len(recorded(out)) + chance.randint(1, 15), seconds=900)
            time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, f"the job was over after {attempt} kills"
        print(f"kill {attempt + 1}: {len(recorded(out))} of {rows} pictures recorded", flush=True)
    for folder in (out, tmp_path / "whole"):
        process = spawn(*arguments, "--out", folder)
        _, err = process.communicate(timeout=1800)
        assert process.returncode == 0, err
    expected = tokens(tmp_path / "whole")
    assert len(expected) == rows
    assert_whole(out, expected)
