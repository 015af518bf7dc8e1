"""Pictures of a job laid out as the official scorers of benchmarks read them.

| benchmark | in the folder of the job                          | arguments of its scorer                    |
|-----------|---------------------------------------------------|--------------------------------------------|
| `geneval` | `geneval/NNNNN/metadata.jsonl`, `.../samples/KKKKK.png` | `geneval`                            |
| `dpg`     | `dpg/ITEM.png`: four pictures as 2 x 2, or one    | `--image-root-path dpg --resolution SIDE`  |
| `genai`   | `genai/MODEL/ID.jpeg`                             | `--output_dir genai --gen_model MODEL`     |

They are made from the pictures in `images/` when a job ends, whole or not at all each, and are left alone when they are
made from the same pictures already.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from PIL import Image

from illume_fast.data.benchmarks import BenchmarkName, BenchmarkRow, read_benchmark
from illume_fast.data.errors import InputError
from illume_fast.data.files import PART, write_atomically
from illume_fast.data.picture import load_picture
from illume_fast.data.png import read_record, write_png
from illume_fast.data.prompts import parse_size
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Entry, writing
from illume_fast.jobs.summary import Merged

JPEG_QUALITY = 95
# pictures of a prompt that a scorer can read; None: any number
COUNTS: dict[BenchmarkName, Sequence[int] | None] = {"geneval": None, "dpg": (1, 4), "genai": (1,)}
DEFAULT_COUNTS: dict[BenchmarkName, int] = {"geneval": 4, "dpg": 4, "genai": 1}

Place = Callable[[Path, BenchmarkRow, Sequence[Entry], Merged], None]


@dataclass(frozen=True)
class Benchmark:
    """A prompt set and the layout of its scorer."""

    name: BenchmarkName
    rows: Sequence[BenchmarkRow]

    @classmethod
    def read(cls, name: BenchmarkName, source: str | Path) -> Self:
        """The prompt set in a file or folder. InputError as in `read_benchmark`."""
        return cls(name, read_benchmark(name, source))

    def check(self, config: JobConfig) -> None:
        """Raise InputError for a job whose pictures the scorer could not read."""
        if config.format != "png":
            raise InputError(f"--layout {self.name} needs --format png, got {config.format}")
        if config.several_sizes:
            raise InputError(f"--layout {self.name} needs one size, got --size {config.size}")
        counts = COUNTS[self.name]
        if counts is not None and config.num_images not in counts:
            allowed = " or ".join(map(str, counts))
            raise InputError(f"--layout {self.name} needs --num-images {allowed}, got {config.num_images}")
        if self.name == "dpg" and config.size is not None:
            _side(*parse_size(config.size), "--size")

    def arrange(self, config: JobConfig, merged: Merged) -> tuple[Path, int]:
        """Lay out what is drawn; the scorer's folder, and how many rows have all their pictures.

        Raises:
            InputError: the folder cannot be written, or a grid would have pictures that are not square.
        """
        root = config.out / self.name
        place = self._place(config)
        whole = 0
        with writing(config.out):
            root.mkdir(exist_ok=True)
            for row in self.rows:
                found = [merged.get(row.prompt.id, index) for index in range(config.num_images)]
                entries = [entry for entry in found if entry is not None and (merged.folder / str(entry.file)).exists()]
                if len(entries) == config.num_images:
                    whole += 1
                    place(root, row, entries, merged)
        return root, whole

    def _place(self, config: JobConfig) -> Place:
        if self.name == "geneval":
            return _geneval
        return _dpg if self.name == "dpg" else partial(_genai, model=Path(config.model).resolve().name)


def _geneval(root: Path, row: BenchmarkRow, entries: Sequence[Entry], merged: Merged) -> None:
    folder = root / row.prompt.id
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        _link(merged.folder / str(entry.file), samples / f"{entry.index:05d}.png")
    # of an earlier run of more pictures; the scorer would count them
    for path in samples.glob("[0-9]" * 5 + ".png"):
        if int(path.stem) >= len(entries):
            path.unlink()
    text = json.dumps(row.metadata)
    write_atomically(folder / "metadata.jsonl", lambda file: file.write(text.encode()))


def _dpg(root: Path, row: BenchmarkRow, entries: Sequence[Entry], merged: Merged) -> None:
    path = root / f"{row.prompt.id}.png"
    record = {"id": row.prompt.id, "prompt": row.prompt.prompt, "tokens": [entry.tokens for entry in entries]}
    if path.exists() and read_record(path) == record:
        return
    pictures = [load_picture(merged.folder / str(entry.file)) for entry in entries]
    side = _side(pictures[0].height, pictures[0].width, f"item {row.prompt.id}")
    columns = 2 if len(pictures) > 1 else 1
    grid = Image.new("RGB", (columns * side, columns * side))
    for number, picture in enumerate(pictures):
        grid.paste(picture, (number % columns * side, number // columns * side))
    write_png(path, grid, record)


def _genai(root: Path, row: BenchmarkRow, entries: Sequence[Entry], merged: Merged, model: str) -> None:
    (root / model).mkdir(exist_ok=True)
    path = root / model / f"{row.prompt.id}.jpeg"
    comment = str(entries[0].tokens).encode()
    if path.exists() and _comment(path) == comment:
        return
    picture = load_picture(merged.folder / str(entries[0].file))
    write_atomically(
        path, lambda file: picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=comment)
    )


def _comment(path: Path) -> bytes | None:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.info.get("comment")
    except (OSError, SyntaxError, ValueError):
        return None


def _link(source: Path, target: Path) -> None:
    """`target` as another name of `source`, or as a copy where the disk has no such names."""
    if target.exists() and target.samefile(source):
        return
    part = target.with_name(f".{target.name}{PART}")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        write_atomically(target, lambda file: file.write(source.read_bytes()))
    else:
        os.replace(part, target)


def _side(height: int, width: int, origin: str) -> int:
    if height != width:
        raise InputError(f"{origin}: DPG-Bench's grids are of square pictures, got {height}x{width}; choose a square")
    return height
