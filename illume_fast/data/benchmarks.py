"""Prompt sets of image benchmarks, as their authors publish them: GenEval, DPG-Bench, GenAI-Bench.

| benchmark | what is read                                                                   | ids               |
|-----------|--------------------------------------------------------------------------------|-------------------|
| `geneval` | `evaluation_metadata.jsonl`: `tag`, `include` and `prompt` a line              | the line, `00000` |
| `dpg`     | the folder of `ITEM.txt`; the `.csv` with `item_id`, `text`; `.jsonl` with `id`, `prompt` | ITEM   |
| `genai`   | `genai_image.json`: an object of `{"00000": {"prompt": ...}}`                  | its keys          |

A benchmark is scored whole, so a row that cannot be used is an error and not skipped.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.prompts import Prompt, prompt_of

BenchmarkName = Literal["geneval", "dpg", "genai"]
BENCHMARKS: tuple[BenchmarkName, ...] = get_args(BenchmarkName)

Found = tuple[str, Any, Any, Any]
"""Where a row stands, its id, its prompt, and all that the file says of it."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """A prompt to draw, and all that the benchmark's file says of it."""

    prompt: Prompt
    metadata: Any


def read_benchmark(name: BenchmarkName, source: str | Path) -> list[BenchmarkRow]:
    """All rows of a prompt set.

    Raises:
        InputError: the file or folder is missing, of another kind, empty or damaged, or an id comes twice.
    """
    path = Path(source)
    rows: list[BenchmarkRow] = []
    try:
        for origin, id, text, metadata in _READERS[name](path):
            if isinstance(id, str) and name == "dpg" and "." in id:
                raise InputError(f"{origin}: item {id!r}: the scorer ends ids at the first dot")
            if id is None:
                raise InputError(f'{origin}: needs an "id", which the scorer knows the picture by')
            prompt = prompt_of({"id": id, "prompt": text}, len(rows), origin)
            rows.append(BenchmarkRow(prompt, metadata))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path}: not CSV: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not rows:
        raise InputError(f"{path} has no prompts of {name}")
    seen: dict[str, Prompt] = {}
    for row in rows:
        first = seen.setdefault(row.prompt.id.casefold(), row.prompt)
        if first is not row.prompt:
            raise InputError(f"{row.prompt.origin}: id {row.prompt.id!r} was already used in {first.origin}")
    return rows


def _geneval(path: Path) -> Iterator[Found]:
    _require(path, "geneval", ".jsonl")
    for number, (origin, row) in enumerate(_lines(path)):
        # what the scorer looks up; without them it ends with a KeyError after hours of detection
        for key, kind in (("tag", str), ("include", list)):
            if not isinstance(row.get(key), kind):
                raise InputError(f'{origin}: GenEval needs a "{key}" that is a {kind.__name__}, got {row.get(key)!r}')
        yield origin, f"{number:05d}", row.get("prompt"), row


def _dpg(path: Path) -> Iterator[Found]:
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield str(file), file.stem, file.read_text(encoding="utf-8"), {}
        return
    _require(path, "dpg", ".csv", ".jsonl")
    yield from _dpg_table(path) if path.suffix.lower() == ".csv" else _dpg_lines(path)


def _dpg_lines(path: Path) -> Iterator[Found]:
    for origin, row in _lines(path):
        yield origin, row.get("id"), row.get("prompt"), row


def _dpg_table(path: Path) -> Iterator[Found]:
    """Items of `dpg_bench.csv`, which has a line for each question about them."""
    texts: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"item_id", "text"} - set(reader.fieldnames or ())
        if missing:
            raise InputError(f"{path}: missing columns {', '.join(sorted(missing))}")
        for row in reader:
            origin, id, text = f"{path} line {reader.line_num}", row["item_id"], row["text"]
            if id not in texts:
                yield origin, id, text, {}
            elif texts[id] != text:
                raise InputError(f"{origin}: item {id!r} had another text before: {shorten(texts[id])}")
            texts[id] = text


def _genai(path: Path) -> Iterator[Found]:
    _require(path, "genai", ".json")
    items = _json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(items, dict):
        raise InputError(f"{path}: expected an object of ids, got {shorten(items)}")
    for id, item in items.items():
        yield f"{path}: {id}", id, item.get("prompt") if isinstance(item, dict) else item, item


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # not `splitlines`, which breaks at U+2028 and others that a JSON string may hold
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{path} line {number}"
        row = _json(line, origin)
        if not isinstance(row, dict):
            raise InputError(f"{origin}: each line must be one JSON object, got {shorten(row)}")
        yield origin, row


def _json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not JSON: {error}") from None


def _require(path: Path, name: str, *suffixes: str) -> None:
    if not path.exists():
        raise InputError(f"prompts of {name}: {path} does not exist")
    if path.is_dir() or path.suffix.lower() not in suffixes:
        folder = "a folder of .txt files, " if name == "dpg" else ""
        raise InputError(f"prompts of {name}: {path} is none; allowed are {folder}{', '.join(suffixes)}")


_READERS = {"geneval": _geneval, "dpg": _dpg, "genai": _genai}
