"""What is written when a job ends, from the ledgers of all its workers: lists, and the contact sheet."""

import fcntl
import heapq
import io
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Self

from PIL import Image

from illume_fast.data.files import write_atomically
from illume_fast.data.picture import load_picture
from illume_fast.data.png import write_png
from illume_fast.data.prompts import Prompt
from illume_fast.data.sheet import contact_sheet
from illume_fast.jobs.config import SHEET_PICTURES
from illume_fast.jobs.ledger import COLUMNS, Entry, ledgers, reading, writing
from illume_fast.jobs.packing import PACKERS

_RANK = {"done": 0, "staged": 1, "failed": 2}


class Merged:
    """All ledgers of a folder, to read from; `shards` is the count of parts the job is divided into now.

    Use as a context manager; it is None inside the block while a worker is still writing.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = folder
        self._shards = shards
        self._ledgers: list[tuple[sqlite3.Connection, bool]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self | None:
        with ExitStack() as stack:
            # one at a time: of two workers that end together, the second to come here finds both ended
            lock = stack.enter_context((self.folder / ".summary.lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path, shard in ledgers(self.folder):
                db = stack.enter_context(reading(path))
                if db is None:
                    return None
                self._ledgers.append((db, shard.count == self._shards))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def entries(self) -> Iterator[Entry]:
        """An entry per picture, by id and index, read as they are asked for."""
        found = heapq.merge(*(self._read(*ledger) for ledger in self._ledgers), key=_place)
        for _, same in groupby(found, key=_place):
            yield min(same, key=lambda entry: _RANK[entry.state])

    def get(self, id: str, index: int) -> Entry | None:
        """The finished picture of this name."""
        for db, _ in self._ledgers:
            query = f"SELECT {COLUMNS} FROM pictures WHERE id = ? AND idx = ? AND state = 'done'"
            if row := db.execute(query, (id, index)).fetchone():
                return Entry.of(row)
        return None

    @staticmethod
    def _read(db: sqlite3.Connection, current: bool) -> Iterator[Entry]:
        # what failed when the job was divided in another way was tried again since
        chosen = "" if current else "WHERE state <> 'failed'"
        return map(Entry.of, db.execute(f"SELECT {COLUMNS} FROM pictures {chosen} ORDER BY id, idx"))


def write_lists(merged: Merged) -> None:
    """Write `results.jsonl`, a line for each finished picture, and `failures.jsonl` if anything failed.

    Raises:
        InputError: the folder is full or cannot be written.
    """

    def results(file: BinaryIO) -> None:
        for entry in merged.entries():
            if entry.state == "done" and entry.record is not None:
                where = {"file": entry.file} if entry.member is None else {"file": entry.file, "member": entry.member}
                _line(file, {"id": entry.id, "index": entry.index, **where, **entry.record})

    def failures(file: BinaryIO) -> None:
        for entry in merged.entries():
            if entry.state == "failed":
                _line(file, {"id": entry.id, "index": entry.index, "reason": entry.reason})

    folder = merged.folder
    with writing(folder):
        write_atomically(folder / "results.jsonl", results)
        if any(entry.state == "failed" for entry in merged.entries()):
            write_atomically(folder / "failures.jsonl", failures)
        else:
            (folder / "failures.jsonl").unlink(missing_ok=True)


def write_sheet(merged: Merged, rows: Sequence[tuple[Prompt, int]]) -> Path | None:
    """Write `contact_sheet.png` of rows and how many pictures each asks for; None when there is no picture of them.

    Raises:
        InputError: the folder is full or cannot be written.
    """
    names = [(prompt.id, index) for prompt, count in rows for index in range(count)][:SHEET_PICTURES]
    pictures = dict(_pictures(merged, names))
    tiles: list[tuple[str, list[Image.Image]]] = []
    for prompt, count in rows:
        drawn = [pictures[prompt.id, k] for k in range(count) if (prompt.id, k) in pictures]
        if drawn:
            source = [] if prompt.image is None or not prompt.image.exists() else [load_picture(prompt.image)]
            tiles.append((prompt.prompt, source + drawn))
    if not tiles:
        return None
    path = merged.folder / "contact_sheet.png"
    with writing(merged.folder):
        write_png(path, contact_sheet(tiles), {})
    return path


def _pictures(merged: Merged, names: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], Image.Image]]:
    shards: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
    for name in names:
        entry = merged.get(*name)
        if entry is None or entry.file is None or not (merged.folder / entry.file).exists():
            continue
        if entry.member is None:
            yield name, load_picture(merged.folder / entry.file)
        else:
            shards[entry.file][entry.member] = name
    for file, members in shards.items():
        packer = next(p for p in PACKERS.values() if p.suffix == Path(file).suffix)
        with (merged.folder / file).open("rb") as opened:
            for member, png in packer.read(opened, members):
                yield members[member], Image.open(io.BytesIO(png)).convert("RGB")


def _place(entry: Entry) -> tuple[str, int]:
    return entry.id.lower(), entry.index


def _line(file: BinaryIO, values: dict[str, Any]) -> None:
    file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
