"""Real limits: a disk that is full, a folder that may not be written, too little memory."""

import resource
import subprocess
import weakref

import pytest
from job_files import assert_whole, recorded, results, tokens

from illume_fast.jobs.loading import ModelSource
from illume_fast.jobs.painter import load_painter

FORMATS = {"png": (), "webdataset": ("--format", "webdataset", "--per-file", 8)}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"red apple {i}" for i in range(40)))
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for some of the pictures, and a way to make it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_loses_nothing(cli, spawn, small_disk, prompts, tiny_model, tmp_path, format):
    out = small_disk / "out"
    common = ("generate", prompts, "--model", tiny_model, *FORMATS[format], "--out")
    process = spawn(*common, out)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert f"output folder {out} cannot be written: " in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith("what was done is kept")
    assert not list(out.rglob("*.part"))
    done = recorded(out)
    assert 0 < len(done) < 40
    # with room again, the rest is made
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    after = cli(*common, out)
    assert after.code == 0, after.err
    assert int(after.out.split(" pictures in")[0]) <= 40 - len(done)
    cli(*common, tmp_path / "whole")
    assert_whole(out, tokens(tmp_path / "whole"))


def test_files_that_may_not_grow(spawn, cli, prompts, tiny_model, tmp_path):
    """Where no disk can be mounted: a limit on the size of files, which the ledger meets in the middle of a write."""
    out = tmp_path / "out"
    common = ("generate", prompts, "--model", tiny_model, "--out", out)
    limit = 45_000
    process = spawn(*common, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert f"output folder {out} cannot be written: " in err.splitlines()[-1]
    assert "Traceback" not in err
    done = recorded(out)
    after = cli(*common)
    assert after.code == 0, after.err
    assert int(after.out.split(" pictures in")[0]) <= 40 - len(done)
    assert len(results(out)) == len(list((out / "images").iterdir())) == 40


@pytest.mark.parametrize("part", [".", "images"])
def test_a_folder_that_may_not_be_written(cli, spawn, small_disk, prompts, tiny_model, part):
    out = small_disk / "out"
    (out / "images").mkdir(parents=True)
    common = ("generate", prompts, "--model", tiny_model, "--out", out)
    # permissions do not stop root, a file system that may only be read does
    target = small_disk if part == "." else out / "images"
    if part == "images":
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    subprocess.run(["mount", "-o", "remount,ro", target], check=True)
    refused = cli(*common)
    assert refused.code == 2
    assert f"output folder {out} cannot be written: Read-only file system" in refused.err
    subprocess.run(["mount", "-o", "remount,rw,size=8m", target], check=True)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert cli(*common).code == 0
    assert len(results(out)) == 40
    if part == "images":
        subprocess.run(["umount", "-l", target], check=True)


def test_too_little_memory_shrinks_the_batch(cli, spawn, prompts, tiny_model, tmp_path):
    """A limit on the address space, which the cache of 4 096 pictures at once alone would fill."""
    # it takes 2 GB, with half as many 1.45 GB
    limit = 1_700_000_000
    common = ("generate", prompts, "--model", tiny_model, "--out")
    process = spawn(
        *(*common, tmp_path / "out", "--batch-size", 4096),
        prepare=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "illume-fast: out of memory for 4096 pictures at once; going on with 2048" in err
    cli(*common, tmp_path / "whole")
    assert_whole(tmp_path / "out", tokens(tmp_path / "whole"))


def test_a_smaller_batch_lets_go_of_the_larger_one(tiny_model):
    with load_painter(ModelSource(model=str(tiny_model)), batch_size=5) as painter:
        before = weakref.ref(painter.pipeline.engine)
        painter.shrink()
        assert before() is None
        assert painter.batch_size == 2
