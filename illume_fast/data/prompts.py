"""Prompt files: what to draw, read from text, JSON lines, a table or the command line.

| source     | rows                                                                                             |
|------------|--------------------------------------------------------------------------------------------------|
| `.txt`     | a prompt a line; blank lines are skipped                                                         |
| `.jsonl`   | an object a line: `prompt`, and if wished `id`, `seed`, `size`, `num_images`, `image`            |
| `.csv .tsv .parquet` | a table with a `prompt` column (in any case) and the same optional columns              |
| other text | the prompt itself                                                                                |

Other keys and columns are let through, so that published prompt sets can be used as they are; a key that looks like
a misspelt one is refused. Ids name the files of the pictures; the rows without one get their number, from 0000.
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illume_fast.data.errors import InputError, shorten

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
KEYS = ("prompt", "id", "seed", "size", "num_images", "image")
MAX_SEED = 2**63 - 1
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One row of a prompt file. `size` is (height, width) in pixels; what is None was not given."""

    id: str
    prompt: str
    seed: int | None = None
    size: tuple[int, int] | None = None
    num_images: int | None = None
    image: Path | None = None
    origin: str = "the prompt"


def parse_size(text: str, origin: str = "--size") -> tuple[int, int]:
    """(height, width) from "HxW".

    Raises:
        InputError: `text` has another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{origin}: size {shorten(text)} is not HEIGHTxWIDTH in pixels, for example 64x64")
    return int(match[1]), int(match[2])


def one_prompt(text: str, origin: str = "the prompt") -> Prompt:
    """`text` itself as a prompt, with the id 0000.

    Raises:
        InputError: it is empty or no text.
    """
    if not text.strip():
        raise InputError(f"{origin} is empty; give a text or a prompt file ({', '.join(FORMATS)})")
    return _prompt({"prompt": text}, 0, origin, Path())


def is_prompt_file(source: str) -> bool:
    """Whether `source` names a prompt file: it has one of the `FORMATS`, or it exists."""
    path = Path(source)
    return path.suffix.lower() in FORMATS or _exists(path)


def read_prompts(source: str) -> list[Prompt]:
    """Read a prompt file, or take a `source` that names none as the only prompt.

    Raises:
        InputError: the file is missing, empty, of another format, or has a row that cannot be used.
    """
    if not is_prompt_file(source):
        return [one_prompt(source)]
    path = Path(source)
    if not _exists(path):
        raise InputError(f"prompt file {source} does not exist")
    if path.is_dir():
        raise InputError(f"prompt file {source} is a folder; give a file ({', '.join(FORMATS)})")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"prompt file {source}: unknown format {path.suffix!r}; known: {', '.join(FORMATS)}")

    rows = _READERS[path.suffix.lower()](path)
    prompts = [_prompt(row, number, origin, path.parent) for number, (origin, row) in enumerate(rows)]
    if not prompts:
        raise InputError(f"prompt file {source} has no prompts")
    _refuse_repeated_ids(prompts)
    return prompts


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a long prompt is no file name
        return False


def _prompt(row: dict[str, Any], number: int, origin: str, folder: Path) -> Prompt:
    for key in row:
        near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.8)
        if near and key not in KEYS:
            raise InputError(f"{origin}: unknown key {key!r}; did you mean {near[0]!r}?")
    given = {key: row[key] for key in KEYS if row.get(key) is not None}

    text = given.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{origin}: needs a "prompt" that is a text, got {shorten(text)}')
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{origin}: the prompt has a NUL character or half a surrogate pair in it")
    image = given.get("image")
    if image is not None and (not isinstance(image, str) or not image):
        raise InputError(f'{origin}: "image" must be the path of a picture, got {shorten(image)}')
    return Prompt(
        id=_id(given.get("id"), number, origin),
        prompt=text.strip(),
        seed=_whole_number("seed", given.get("seed"), 0, MAX_SEED, origin),
        size=_size(given.get("size"), origin),
        num_images=_whole_number("num_images", given.get("num_images"), 1, 100_000, origin),
        image=None if image is None else folder / image,
        origin=origin,
    )


def _id(value: Any, number: int, origin: str) -> str:
    if value is None:
        return f"{number:04d}"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise InputError(
            f"{origin}: id {shorten(value)} cannot name a file; use 1 to 100 of letters, digits, '_', '-' and '.',"
            " not starting with '-' or '.'"
        )
    return text


def _whole_number(name: str, value: Any, low: int, high: int, origin: str) -> int | None:
    if value is None:
        return None
    try:
        # a table's column of whole numbers with gaps arrives as floats
        number = int(value) if isinstance(value, str) or (isinstance(value, float) and value.is_integer()) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise InputError(f'{origin}: "{name}" must be a whole number from {low} to {high}, got {shorten(value)}')
    return number


def _size(value: Any, origin: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    return parse_size(str(value), origin)


def _refuse_repeated_ids(prompts: list[Prompt]) -> None:
    # folded, because some file systems do not tell A from a
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        first = seen.setdefault(prompt.id.casefold(), prompt)
        if first is not prompt:
            raise InputError(f"{prompt.origin}: id {prompt.id!r} was already used in {first.origin}")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"prompt file {path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        origin = f"{path} line {number}"
        try:
            yield origin, line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise InputError(f"{origin}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _read_txt(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((origin, {"prompt": line}) for origin, line in _lines(path) if line.strip())


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for origin, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{origin}: not JSON ({reason}); each line must be one object") from None
        if not isinstance(row, dict):
            raise InputError(f"{origin}: each line must be one JSON object, got {shorten(row)}")
        yield origin, row


def _read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = "\n".join(line for _, line in _lines(path))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # spreadsheets quote in .tsv as in .csv, but published .tsv prompt sets have bare quotes inside a field
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=delimiter == ",")
    try:
        header = _columns(next(reader, []), path)
        for cells in reader:
            origin = f"{path} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise InputError(f"{origin}: {len(cells)} cells under {len(header)} columns; quote cells with commas")
            yield origin, {key: cell for key, cell in zip(header, cells, strict=False) if cell.strip()}
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: {error}") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"prompt file {path}: reading .parquet needs pyarrow (pip install pyarrow)") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        header = _columns(file.schema_arrow.names, path)
        wanted = [name for name, key in zip(file.schema_arrow.names, header, strict=True) if key in KEYS]
        rows: Iterable[dict[str, Any]] = (
            row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist()
        )
        for number, row in enumerate(rows, start=1):
            yield (
                f"{path} row {number}",
                {key.strip().casefold(): value for key, value in row.items() if value == value},
            )
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
