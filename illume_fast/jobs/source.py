"""Where rows come from: a prompt file, or prompts from Python; read one at a time and as often as needed."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from illume_fast.data.errors import InputError
from illume_fast.data.files import write_atomically
from illume_fast.data.prompt_files import read_prompts
from illume_fast.data.prompts import BadRow, Prompt, bad_row, prompt_or_bad

Row = Prompt | BadRow
Given = str | Mapping[str, Any] | Prompt


class Source(Protocol):
    """Rows that can be read one after the other."""

    total_known: bool
    """Whether rows can be read twice, so that they can be counted before the work starts."""

    def rows(self) -> Iterator[Row]:
        """All rows, from the first; InputError where the source itself is bad."""
        ...


class PromptFile:
    """The rows of a prompt file; with `need_image`, a row without a source picture is a bad one."""

    total_known = True

    def __init__(self, path: str | Path, need_image: bool = False) -> None:
        self.path = Path(path)
        self.need_image = need_image

    def rows(self) -> Iterator[Row]:
        """The rows as `read_prompts` gives them."""
        rows = read_prompts(self.path)
        return map(_with_image, enumerate(rows)) if self.need_image else rows


class Prompts:
    """Prompts from Python, each a text, a dict like a row of a prompt file, or a `Prompt`.

    A list can be read again and again, a generator once.
    """

    def __init__(self, prompts: Iterable[Given]) -> None:
        self.prompts = prompts
        self.total_known = iter(prompts) is not prompts

    def rows(self) -> Iterator[Row]:
        """The rows; InputError when there are none."""
        return self._rows(iter(self.prompts))

    @staticmethod
    def _rows(prompts: Iterator[Given]) -> Iterator[Row]:
        first = list(islice(prompts, 1))
        if not first:
            raise InputError("there are no prompts")
        for number, given in enumerate(chain(first, prompts)):
            yield _row(given, number)


def once(rows: Iterable[Row]) -> Iterator[Row]:
    """`rows` with every row whose id came before, in any case, made a bad one.

    The ids met lie in a temporary database, which goes to the disk when it grows.
    """
    # letters' case is folded, because some file systems do not tell A from a
    seen = sqlite3.connect("")
    seen.execute("CREATE TABLE ids (id TEXT COLLATE NOCASE PRIMARY KEY, number INTEGER, origin TEXT) WITHOUT ROWID")
    try:
        for number, row in enumerate(rows):
            if isinstance(row, BadRow):
                yield row
                continue
            new = seen.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (row.id, number, row.origin)).rowcount
            if new:
                yield row
            else:
                (first,) = seen.execute("SELECT origin FROM ids WHERE id = ?", (row.id,)).fetchone()
                yield bad_row(number, f"{row.origin}: id {row.id!r} was already used in {first}")
    finally:
        seen.close()


class Spool:
    """Rows of another source that were written down, so that several processes can read them."""

    total_known = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, source: Source, path: Path) -> "Spool":
        """Write all rows of `source` into the file `path`. OSError when it cannot be written."""

        def write(file: BinaryIO) -> None:
            for row in source.rows():
                file.write(json.dumps(asdict(row), default=str).encode() + b"\n")

        write_atomically(path, write)
        return cls(path)

    def rows(self) -> Iterator[Row]:
        """The rows as they were."""
        with self.path.open("rb") as file:
            for line in file:
                values = json.loads(line)
                if "reason" in values:
                    yield BadRow(**values)
                else:
                    size, image = values.pop("size"), values.pop("image")
                    yield Prompt(size=size and tuple(size), image=None if image is None else Path(image), **values)


def _row(given: Given, number: int) -> Row:
    origin = f"prompt {number}"
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return prompt_or_bad({"prompt": given}, number, origin)
    if isinstance(given, Mapping):
        return prompt_or_bad(given, number, origin)
    return bad_row(number, f"{origin}: a prompt is a text, a dict or a Prompt, got {type(given).__name__}")


def _with_image(numbered: tuple[int, Row]) -> Row:
    number, row = numbered
    if isinstance(row, Prompt) and row.image is None:
        return bad_row(number, f'{row.origin}: an edit needs an "image", the path of its picture')
    return row
