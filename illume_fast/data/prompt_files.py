"""Prompt files, read a row at a time: a file of any length takes no more memory than its longest row.

| source     | rows                                                                                             |
|------------|--------------------------------------------------------------------------------------------------|
| `.txt`     | a prompt a line; blank lines are skipped                                                         |
| `.jsonl`   | an object a line: `prompt`, and if wished the other keys of `data.prompts`                       |
| `.csv .tsv .parquet` | a table with a `prompt` column (in any case) and the same optional columns             |

A row that cannot be used comes as a `BadRow` and the next one follows; what is wrong with the file is an error.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.prompts import KEYS, BadRow, Prompt, misspelt, prompt_or_bad

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 1024

Row = tuple[str, dict[str, Any] | InputError]


def is_prompt_file(source: str) -> bool:
    """Whether `source` names a prompt file: it has one of the `FORMATS`, or it exists."""
    path = Path(source)
    return path.suffix.lower() in FORMATS or _exists(path)


def read_prompts(source: str | Path) -> Iterator[Prompt | BadRow]:
    """The rows of a prompt file, read as they are asked for.

    Raises:
        InputError: the file is missing or of another format (at once), or, on the way, is empty or cannot be read.
    """
    path = Path(source)
    if not _exists(path):
        raise InputError(f"prompt file {source} does not exist")
    if path.is_dir():
        raise InputError(f"prompt file {source} is a folder; give a file ({', '.join(FORMATS)})")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"prompt file {source}: unknown format {path.suffix!r}; known: {', '.join(FORMATS)}")
    return _prompts(path)


def _prompts(path: Path) -> Iterator[Prompt | BadRow]:
    number = -1
    for number, (origin, row) in enumerate(_READERS[path.suffix.lower()](path)):
        yield prompt_or_bad(row, number, origin, path.parent)
    if number < 0:
        raise InputError(f"prompt file {path} has no prompts")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a long prompt is no file name
        return False


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path} line {number}", line.removeprefix(_BOM) if number == 1 else line
    except OSError as error:
        raise InputError(f"prompt file {path} cannot be read: {error.strerror}") from None


def _text(line: bytes, origin: str) -> str | InputError:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return InputError(f"{origin}: not UTF-8 text ({error.reason} at byte {error.start})")


def _read_txt(path: Path) -> Iterator[Row]:
    for origin, line in _lines(path):
        text = _text(line, origin)
        if isinstance(text, InputError):
            yield origin, text
        elif text.strip():
            yield origin, {"prompt": text}


def _read_jsonl(path: Path) -> Iterator[Row]:
    for origin, line in _lines(path):
        text = _text(line, origin)
        if isinstance(text, InputError):
            yield origin, text
        elif text.strip():
            yield origin, _object(text, origin)


def _object(text: str, origin: str) -> dict[str, Any] | InputError:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return InputError(f"{origin}: not JSON ({reason}); each line must be one object")
    if not isinstance(row, dict):
        return InputError(f"{origin}: each line must be one JSON object, got {shorten(row)}")
    return row


def _read_table(path: Path) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # bytes that are no UTF-8 pass as lone surrogates, so that the row they stand in is refused and no other
    lines = (line.decode("utf-8", "surrogateescape") for _, line in _lines(path))
    # spreadsheets quote in .tsv as in .csv, but published .tsv prompt sets have bare quotes inside a field
    reader = csv.reader(lines, delimiter=delimiter, strict=delimiter == ",")
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            wrong = InputError(f"{path} line {reader.line_num}: {error}")
            if header is None:
                raise wrong from None
            yield "", wrong
            continue
        if header is None:
            header = _columns(cells or [], path)
        elif cells is None:
            return
        elif any(cell.strip() for cell in cells):
            origin = f"{path} line {reader.line_num}"
            yield origin, _cells(cells, header, origin)


def _cells(cells: list[str], header: list[str], origin: str) -> dict[str, Any] | InputError:
    if len(cells) > len(header):
        return InputError(f"{origin}: {len(cells)} cells under {len(header)} columns; quote cells with commas")
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return InputError(f"{origin}: not UTF-8 text")
    return {key: cell for key, cell in zip(header, cells, strict=False) if cell.strip()}


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"prompt file {path}: reading .parquet needs pyarrow (pip install pyarrow)") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = _columns(file.schema_arrow.names, path)
            names = zip(file.schema_arrow.names, header, strict=True)
            wanted = [name for name, key in names if key in KEYS or misspelt(key)]
            batches = file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted)
            rows: Iterable[dict[str, Any]] = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                # a gap in a column of numbers is NaN, which is not equal to itself
                given = {key.strip().casefold(): value for key, value in row.items() if value == value}
                yield f"{path} row {number}", given
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"prompt file {path} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _columns(header: Iterable[str], path: Path) -> list[str]:
    columns = [name.strip().casefold() for name in header]
    if "prompt" not in columns:
        raise InputError(f"prompt file {path} has no column 'prompt'; its columns: {', '.join(header) or 'none'}")
    return columns


_READERS = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}
