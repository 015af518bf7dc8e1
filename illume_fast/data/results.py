"""The ledger of a run: `results.jsonl`, one line per finished picture, from which a killed run goes on.

A picture is written in two steps: the PNG, renamed into place when it is whole, then its line. So a line without a
PNG means that the file was deleted, a PNG without a line that the run was killed between the two; such a picture
carries its own record and is taken over instead of being drawn again.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.png import read_record, write_png

Record = dict[str, Any]


class Ledger:
    """The output folder of one run: `images/`, and `results.jsonl` with a record per picture.

    A record is a flat dict that says how a picture is made (`id`, `index`, `prompt`, `seed`, ...). Opening the
    ledger takes a lock that ends with the process, and mends a last line that a killed run left torn.

    Raises:
        InputError: the folder cannot be made or written, another run is using it, or the ledger is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.path = folder / "results.jsonl"
        self._done: dict[str, Record] = {}
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            self._lock()
            self._mend_torn_line()
            self._read()
            for part in (*self.images.glob(".*.part"), *folder.glob(".contact_sheet.png.part")):
                part.unlink()
        except OSError as error:
            self.close()
            raise _unwritable(folder, error) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._file.close()

    def picture_path(self, record: Record) -> Path:
        """Where the picture of `record` is or will be."""
        return self.images / f"{record['id']}_{record['index']}.png"

    def has(self, wanted: Record) -> bool:
        """Whether the picture of `wanted` is finished.

        Raises:
            InputError: there is a picture of that name which was made in another way.
        """
        path = self.picture_path(wanted)
        if not path.exists():
            return False
        done = self._done.get(path.name)
        if done is None:
            # the run was killed after the picture and before its line
            done = read_record(path)
            if done is None:
                raise InputError(f"{path} is in the way: it is not a picture of this run; choose another output folder")
            if _same(done, wanted):
                self._append(done)
        if not _same(done, wanted):
            key = next(k for k in wanted if done.get(k) != wanted[k])
            raise InputError(
                f"{path} was made with {key} {shorten(done.get(key))}, not {shorten(wanted[key])};"
                " choose another output folder or the same settings"
            )
        return True

    def add(self, record: Record, picture: Image.Image) -> Path:
        """Write a finished picture and its line.

        Raises:
            InputError: the folder is full or can no longer be written.
        """
        path = self.picture_path(record)
        try:
            write_png(path, picture, record)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        self._append(record)
        return path

    def write_sheet(self, sheet: Image.Image) -> Path:
        """Write `contact_sheet.png` into the folder.

        Raises:
            InputError: the folder is full or can no longer be written.
        """
        path = self.folder / "contact_sheet.png"
        try:
            write_png(path, sheet, {})
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return path

    def _append(self, record: Record) -> None:
        end = os.fstat(self._file.fileno()).st_size
        left = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            while left:
                # a full disk takes a part, and only refuses the rest
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise _unwritable(self.folder, error) from None
        self._done[self.picture_path(record).name] = record

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"output folder {self.folder} is in use by another run") from None

    def _mend_torn_line(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)

    def _read(self) -> None:
        self._file.seek(0)
        for number, line in enumerate(self._file.read().splitlines(), start=1):
            try:
                record = json.loads(line)
                name = self.picture_path(record).name
            except (ValueError, TypeError, KeyError):
                raise InputError(
                    f"{self.path} line {number} is not a record of a picture; choose another output folder"
                ) from None
            self._done[name] = record


def _same(done: Record, wanted: Record) -> bool:
    return all(done.get(key) == value for key, value in wanted.items())


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(f"output folder {folder} cannot be written: {error.strerror or error}; what was done is kept")
