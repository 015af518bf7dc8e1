"""The first version of the engine: taken from the history of this checkout, and built, once."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

COMMIT = "de70e399695c94c81a51cc847e7f3049856cd2ff"
_ROOT = Path(__file__).resolve().parents[2]
_KEYS = ("model", "vision_tokenizer", "generation", "fingerprint", "format")


def first_version(folder: Path = _ROOT / "build" / "first") -> Path:
    """The folder of the first version; made in a few minutes if it is not there.

    Raises:
        RuntimeError: this is no checkout with its history, or the build fails.
    """
    if _built(folder):
        return folder
    stage = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        _unpack(stage)
        _build(stage)
        shutil.rmtree(folder, ignore_errors=True)
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return folder


def as_first_reads(model: Path, folder: Path) -> Path:
    """`folder`, made to hold the files of a model, its `config.json` with those keys alone that the version knows."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    values = json.loads((model / "config.json").read_text(encoding="utf-8"))
    known = {key: value for key, value in values.items() if key in _KEYS}
    (folder / "config.json").write_text(json.dumps(known), encoding="utf-8")
    return folder


def _built(folder: Path) -> bool:
    return any((folder / "kernels").glob("_C*.so"))


def _unpack(folder: Path) -> None:
    done = subprocess.run(["git", "-C", str(_ROOT), "archive", COMMIT], capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"the first version of the engine needs a checkout with commit {COMMIT[:7]}: {reason}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _build(folder: Path) -> None:
    print("building the first version of the engine, once", flush=True)
    settings = {"PYTHONSAFEPATH": "1", "ILLUME_FAST_CUDA": "0", "ILLUME_FAST_REQUIRE_NATIVE": "1"}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode or not _built(folder):
        raise RuntimeError(f"the first version of the engine does not build: {done.stdout[-500:]}")
