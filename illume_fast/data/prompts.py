"""Rows of prompt files and of Python as prompts: what to draw, and what is wrong with a row that cannot be drawn.

A row is a dict with a `prompt` and, if wished, the other `KEYS`. Keys that are none of them are let through, so that
published prompt sets can be used as they are; one that looks like a misspelt one is refused. Ids name the files of the
pictures; the rows without one get their number, from 0000. `data.prompt_files` reads the files.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from illume_fast.data.errors import InputError, shorten

KEYS = (
    *("prompt", "id", "seed", "size", "num_images", "image"),
    *("guidance", "negative_prompt", "guidance_from", "guidance_until"),
)
MAX_SEED = 2**63 - 1
MAX_IMAGES = 100_000
MAX_GUIDANCE = 100
MAX_STEP = 2**31 - 1
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One row of a prompt file. `size` is (height, width) in pixels; what is None was not given.

    Guidance and its stretch are those of `illume_fast.pipeline.Draw`.
    """

    id: str
    prompt: str
    seed: int | None = None
    size: tuple[int, int] | None = None
    num_images: int | None = None
    image: Path | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    guidance_from: int | None = None
    guidance_until: int | None = None
    origin: str = "the prompt"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that is no prompt: `#` and its number as id, and one line that says where it is and what is wrong."""

    id: str
    reason: str


def prompt_of(row: Mapping[str, Any], number: int, origin: str, folder: Path = Path()) -> Prompt:
    """The prompt in `row`, the `number`-th from 0; a relative `image` is looked for in `folder`.

    Raises:
        InputError: the row cannot be used; `origin` says where it is.
    """
    for key in row:
        if near := misspelt(str(key)):
            raise InputError(f"{origin}: unknown key {key!r}; did you mean {near!r}?")
    given = {key: row[key] for key in KEYS if row.get(key) is not None}

    text = given.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{origin}: needs a "prompt" that is a text, got {shorten(text)}')
    check_characters(text, f"{origin}: the prompt")
    away = given.get("negative_prompt")
    if away is not None:
        if not isinstance(away, str):
            raise InputError(f'{origin}: "negative_prompt" must be a text, got {shorten(away)}')
        check_negative(away, f'{origin}: "negative_prompt"')
    image = given.get("image")
    if image is not None and (not isinstance(image, str | Path) or not str(image)):
        raise InputError(f'{origin}: "image" must be the path of a picture, got {shorten(image)}')
    return Prompt(
        id=f"{number:04d}" if "id" not in given else _id(given["id"], origin),
        prompt=text.strip(),
        seed=_whole_number("seed", given.get("seed"), 0, MAX_SEED, origin),
        size=_size(given.get("size"), origin),
        num_images=_whole_number("num_images", given.get("num_images"), 1, MAX_IMAGES, origin),
        image=None if image is None else folder / image,
        guidance=_number("guidance", given.get("guidance"), 0, MAX_GUIDANCE, origin),
        negative_prompt=None if away is None else away.strip(),
        guidance_from=_whole_number("guidance_from", given.get("guidance_from"), 0, MAX_STEP, origin),
        guidance_until=_whole_number("guidance_until", given.get("guidance_until"), 0, MAX_STEP, origin),
        origin=origin,
    )


@lru_cache(maxsize=1024)
def misspelt(key: str) -> str | None:
    """The known key that `key` is a misspelling of, or None."""
    return None if key in KEYS else next(iter(difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)), None)


def check_characters(text: str, name: str) -> None:
    """Raise InputError, beginning with `name`, for characters that files and tokenizers do not take."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{name} has a NUL character or half a surrogate pair in it")


def check_negative(text: str, name: str) -> None:
    """Raise InputError, beginning with `name`, for a negative prompt without words."""
    if not text.strip():
        raise InputError(f"{name} is empty; say what to lead away from, or leave it out")
    check_characters(text, name)


def _id(value: Any, origin: str) -> str:
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


def _number(name: str, value: Any, low: float, high: float, origin: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    # written so that NaN fails
    if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
        raise InputError(f'{origin}: "{name}" must be a number from {low} to {high}, got {shorten(value)}')
    return float(number)


def _size(value: Any, origin: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    return parse_size(str(value), origin)


def prompt_or_bad(
    row: Mapping[str, Any] | InputError, number: int, origin: str, folder: Path = Path()
) -> Prompt | BadRow:
    """The prompt in `row`, or what is wrong with it; an error in the place of a row is passed on as such."""
    try:
        if isinstance(row, InputError):
            raise row
        return prompt_of(row, number, origin, folder)
    except InputError as error:
        return bad_row(number, str(error))


def bad_row(number: int, reason: str) -> BadRow:
    """What is kept of a row that is no prompt; no id of a prompt starts with '#', so that it is taken for no other."""
    return BadRow(id=f"#{number:04d}", reason=reason)


def one_prompt(text: str, origin: str = "the prompt") -> Prompt:
    """`text` itself as a prompt, with the id 0000.

    Raises:
        InputError: it is empty or no text.
    """
    if not text.strip():
        raise InputError(f"{origin} is empty; give a text or a prompt file")
    return prompt_of({"prompt": text}, 0, origin)


def parse_size(text: str, origin: str = "--size") -> tuple[int, int]:
    """(height, width) from "HxW".

    Raises:
        InputError: `text` has another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{origin}: size {shorten(text)} is not HEIGHTxWIDTH in pixels, for example 64x64")
    return int(match[1]), int(match[2])
