"""The Noto Emoji set: named pictures, and edits that lead from one to another."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_pixels


@dataclass(frozen=True, slots=True)
class EmojiRow:
    """A picture: `base` is its family, equal for all tones, genders and colours of one thing."""

    id: str
    name: str
    group: str
    subgroup: str
    base: str
    tone: str
    split: str


@dataclass(frozen=True, slots=True)
class EmojiEdit:
    """An instruction that leads from one picture to another, by row number."""

    source: int
    target: int
    instruction: str
    kind: str
    split: str


@dataclass(frozen=True, slots=True)
class EmojiSet:
    """`pixels` is uint8 [N, 3, size, size], composited on white; row i of it belongs to `rows[i]`."""

    rows: Sequence[EmojiRow]
    pixels: np.ndarray
    edits: Sequence[EmojiEdit]

    def split(self, name: str) -> list[int]:
        """Row numbers of a split."""
        return [i for i, row in enumerate(self.rows) if row.split == name]


def load_emoji(folder: Path | str, size: int = 64) -> EmojiSet:
    """Reads `emoji.csv`, `edits.csv` and `images/<id>.png` below `folder`, scaled (Lanczos) to `size` x `size` pixels.

    Raises:
        InputError: a file or column is missing, a picture is damaged, or an edit names a picture that is not there.
    """
    folder = Path(folder)
    rows = [EmojiRow(**row) for row in _read_csv(folder / "emoji.csv", EmojiRow.__slots__)]
    if not rows:
        raise InputError(f"{folder / 'emoji.csv'} has no rows")
    pixels = np.stack([load_pixels(folder / "images" / f"{row.id}.png", size) for row in rows])
    number = {row.id: i for i, row in enumerate(rows)}
    edits = []
    for line, row in enumerate(_read_csv(folder / "edits.csv", EmojiEdit.__slots__), start=2):
        for end in ("source", "target"):
            if row[end] not in number:
                raise InputError(f"{folder / 'edits.csv'} line {line}: {end} {row[end]!r} is not in emoji.csv")
        ends = number[row["source"]], number[row["target"]]
        edits.append(EmojiEdit(*ends, row["instruction"], row["kind"], row["split"]))
    return EmojiSet(rows, pixels, edits)


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: missing columns {', '.join(missing)}")
            return [{name: row[name] for name in columns} for row in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
