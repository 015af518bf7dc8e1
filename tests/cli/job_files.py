"""What a job has left in its folder, read as an outsider would."""

import json
import sqlite3
import tarfile
import time
from collections import Counter
from pathlib import Path


def recorded(out: Path, states: tuple[str, ...] = ("done", "staged")) -> list[tuple[str, int]]:
    """Id and index of every picture in all ledgers of a folder, while workers may be writing them."""
    found: list[tuple[str, int]] = []
    for path in out.glob("ledger*.sqlite"):
        marks = ", ".join("?" * len(states))
        try:
            db = sqlite3.connect(path, timeout=10)
            found += db.execute(f"SELECT id, idx FROM pictures WHERE state IN ({marks})", states).fetchall()
            db.close()
        except sqlite3.OperationalError:  # the table is just being made
            continue
    return found


def wait_for(process, out: Path, done: int, seconds: float = 120) -> None:
    """Return when the ledgers of a running job hold `done` pictures."""
    deadline = time.monotonic() + seconds
    while len(recorded(out)) < done:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def results(out: Path, name: str = "results.jsonl") -> list[dict]:
    """The lines of results.jsonl or failures.jsonl."""
    path = out / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tokens(out: Path) -> dict[tuple[str, int], str]:
    """The hash of the codes of each picture in results.jsonl."""
    return {(row["id"], row["index"]): row["tokens"] for row in results(out)}


def files(out: Path) -> Counter[tuple[str, str]]:
    """Every picture file, in a folder or in a tar: (file, member), and how often it is there."""
    found = Counter((f"images/{path.name}", "") for path in (out / "images").glob("*"))
    for path in (out / "shards").glob("*"):
        with tarfile.open(path) as tar:
            found.update((f"shards/{path.name}", name) for name in tar.getnames() if name.endswith(".png"))
    return found


def assert_whole(out: Path, expected: dict[tuple[str, int], str]) -> None:
    """Every picture is there exactly once; ledgers, results.jsonl and files agree; the codes are those expected."""
    rows = results(out)
    assert tokens(out) == expected
    assert len(rows) == len(expected)
    assert sorted(recorded(out)) == sorted(expected)
    listed = Counter((row["file"], f"{row['member']}.png" if "member" in row else "") for row in rows)
    assert files(out) == listed
    names = Counter(member or file.removeprefix("images/") for file, member in files(out))
    assert names == Counter(f"{id}_{index}.png" for id, index in expected)
    assert not list((out / "staging").glob("*"))
    assert not list(out.rglob("*.part"))
