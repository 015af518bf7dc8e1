"""Where the pictures of a job lie: a folder of PNG files, or shards that are filled from a staging folder.

A picture is written in two steps: its PNG, renamed into place when it is whole, then its row in the ledger. So a row
without a PNG means that the file was deleted, a PNG without a row that the worker was killed between the two; such a
picture carries its own record and is taken over instead of being drawn again.

A shard is written from PNGs in `staging/`, renamed into place, and recorded for all its pictures in one transaction;
then the PNGs are deleted. A worker killed in between finds the same pictures staged and writes the same shard again.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from PIL import Image

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.files import PART, write_atomically
from illume_fast.data.png import read_record, write_png
from illume_fast.jobs.ledger import Entry, Ledger, Record, writing
from illume_fast.jobs.packing import PACKERS, Item, key_of
from illume_fast.jobs.shard import Shard


class Store(Protocol):
    """Where finished pictures go."""

    def has(self, wanted: Record) -> bool:
        """Whether the picture is made: one of this name whose record holds all that `wanted` says.

        Raises:
            InputError: there is a picture of that name which was made in another way.
        """
        ...

    def add(self, record: Record, picture: Image.Image) -> None:
        """Keep a finished picture. InputError when the folder is full or cannot be written."""
        ...

    def finish(self) -> None:
        """Finish what is open, when the last picture was added. InputError as in `add`."""
        ...


def open_store(ledger: Ledger, format: str, per_file: int) -> Store:
    """The store of a format in the ledger's folder. InputError when it cannot be one."""
    return PictureFolder(ledger) if format == "png" else ShardStore(ledger, format, per_file)


def picture_name(id: str, index: int) -> str:
    """The file name of a picture."""
    return f"{id}_{index}.png"


class PictureFolder:
    """`images/ID_K.png`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._folder = ledger.folder / "images"
        with writing(ledger.folder):
            self._folder.mkdir(exist_ok=True)
            _sweep(self._folder, ledger.shard)

    def has(self, wanted: Record) -> bool:
        """See `Store`."""
        path = self._folder / picture_name(wanted["id"], wanted["index"])
        if not path.exists():
            return False
        entry = self._ledger.get(wanted["id"], wanted["index"])
        if entry is not None and entry.record is not None:
            require_same(entry.record, wanted, path)
        else:
            record = adopt(path, wanted)
            self._ledger.add(record, "done", self._file(record))
        return True

    def add(self, record: Record, picture: Image.Image) -> None:
        """See `Store`."""
        file = self._file(record)
        record = {"id": record["id"], "index": record["index"], "file": file, **record}
        with writing(self._ledger.folder):
            write_png(self._ledger.folder / file, picture, record)
        self._ledger.add(record, "done", file)

    def finish(self) -> None:
        """See `Store`."""

    @staticmethod
    def _file(record: Record) -> str:
        return f"images/{picture_name(record['id'], record['index'])}"


class ShardStore:
    """`shards/pictures-NNNNNN.tar` or `.parquet`, each with `per_file` pictures, the last with the rest."""

    def __init__(self, ledger: Ledger, format: str, per_file: int) -> None:
        self._packer = PACKERS[format]
        self._packer.require()
        self._ledger, self._per_file = ledger, per_file
        self._shards, self._staging = ledger.folder / "shards", ledger.folder / "staging"
        # nothing removes a shard while a job runs
        self._exists = lru_cache(maxsize=4096)(lambda file: (ledger.folder / file).exists())
        with writing(ledger.folder):
            for folder in (self._shards, self._staging):
                folder.mkdir(exist_ok=True)
            _sweep(self._staging, ledger.shard)
            for part in self._shards.glob(f".{self._name('*')}{PART}"):
                part.unlink()
            self._sweep_packed()
        self._refuse_strange_shards()
        self._waiting = ledger.waiting

    def has(self, wanted: Record) -> bool:
        """See `Store`."""
        id, index = wanted["id"], wanted["index"]
        path = self._staging / picture_name(id, index)
        entry = self._ledger.get(id, index)
        if entry is None or entry.state == "failed" or entry.record is None:
            if not path.exists():
                return False
            # the worker was killed after the picture and before its row
            self._stage(adopt(path, wanted))
            return True
        there = path.exists() if entry.state == "staged" else self._exists(entry.file)
        if not there:
            return False
        require_same(entry.record, wanted, path if entry.state == "staged" else self._ledger.folder / str(entry.file))
        return True

    def add(self, record: Record, picture: Image.Image) -> None:
        """See `Store`."""
        with writing(self._ledger.folder):
            write_png(self._staging / picture_name(record["id"], record["index"]), picture, record)
        self._stage(record)

    def finish(self) -> None:
        """See `Store`."""
        while self._waiting:
            self._pack()

    def _stage(self, record: Record) -> None:
        self._ledger.add(record, "staged")
        self._waiting += 1
        if self._waiting >= self._per_file:
            self._pack()

    def _pack(self) -> None:
        entries = []
        for entry in self._ledger.staged(self._per_file):
            if self._path(entry).exists():
                entries.append(entry)
            else:
                self._ledger.forget(entry.id, entry.index)
        if entries:
            name = self._name(f"{self._ledger.shards:06d}")
            with writing(self._ledger.folder):
                write_atomically(self._shards / name, lambda file: self._packer.write(file, self._items(entries)))
            self._ledger.packed(entries, f"shards/{name}", [key_of(e.id, e.index) for e in entries])
            with writing(self._ledger.folder):
                for entry in entries:
                    self._path(entry).unlink()
        self._waiting = self._ledger.waiting

    def _items(self, entries: Sequence[Entry]) -> Iterator[Item]:
        for entry in entries:
            yield Item(key_of(entry.id, entry.index), entry.record or {}, self._path(entry).read_bytes())

    def _path(self, entry: Entry) -> Path:
        return self._staging / picture_name(entry.id, entry.index)

    def _name(self, serial: str) -> str:
        return f"pictures{self._ledger.shard.label}-{serial}{self._packer.suffix}"

    def _sweep_packed(self) -> None:
        """Delete staged pictures that their shard holds: the worker was killed before it came to that."""
        for path in self._staging.glob("*.png"):
            id, _, index = path.stem.rpartition("_")
            if index.isdecimal() and self._ledger.shard.owns(id, int(index)):
                entry = self._ledger.get(id, int(index))
                if entry is not None and entry.state == "done" and self._exists(entry.file):
                    path.unlink()

    def _refuse_strange_shards(self) -> None:
        """A shard that the ledger does not know must not be overwritten, but for one it was about to record."""
        known = self._ledger.shards + (self._ledger.attempt > 1)
        for path in self._shards.glob(self._name("[0-9]" * 6)):
            if int(path.stem[-6:]) >= known:
                raise InputError(f"{path} is in the way: {self._ledger.path} does not know it; choose another folder")


def adopt(path: Path, wanted: Record) -> Record:
    """The record in a picture that has no row in the ledger. InputError when it is not the picture that is wanted."""
    record = read_record(path)
    if record is None:
        raise InputError(f"{path} is in the way: it is not a picture of this job; choose another output folder")
    require_same(record, wanted, path)
    return record


def require_same(done: Record, wanted: Record, path: Path) -> None:
    """Raise InputError, naming what differs, unless `done` was made as `wanted` says."""
    for key, value in wanted.items():
        before = done.get(key)
        if before == value:
            continue
        if before is None:
            made = f"without {key}, not with {shorten(value)}"
        else:
            made = f"with {key} {shorten(before)}, not {'without' if value is None else shorten(value)}"
        raise InputError(f"{path} was made {made}; choose another output folder or the same settings")


def _sweep(folder: Path, shard: Shard) -> None:
    """Delete what a killed worker left half written of this part's pictures."""
    for part in folder.glob(f".*.png{PART}"):
        id, _, index = part.name[1 : -len(f".png{PART}")].rpartition("_")
        if index.isdecimal() and shard.owns(id, int(index)):
            part.unlink()
