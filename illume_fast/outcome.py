"""What comes out of a pipeline: samples that are done, and samples while they are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from illume_fast.data.chat import Written
from illume_fast.data.errors import InputError
from illume_fast.data.image import to_picture, unpad
from illume_fast.data.picture import upright_size
from illume_fast.data.png import write_png
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.turns import Turn
from illume_fast.engine import RequestError
from illume_fast.records import with_size
from illume_fast.tasks import Task, name_of


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture of an answer: its codes, and its pixels uint8 [3, H, W] if they were asked for."""

    codes: ImageCodes
    pixels: Tensor | None = None

    @property
    def picture(self) -> Image.Image:
        """The picture as it was drawn."""
        return _picture(None, self.pixels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Done:
    """A finished sample of a task: `pixels` uint8 [3, H, W] and `codes` of a picture, or the `text` of an answer.

    The answer to a conversation has words and pictures in order as `parts` (`answer` keeps what the words were made of,
    `text` has them all), and is the next `turn` as it stands; one picture alone is `codes` and `pixels` as well. When
    it failed, `error` says why, naming the task.
    """

    task: Task
    sample: int
    seed: int
    pixels: Tensor | None = None
    codes: ImageCodes | None = None
    text: str | None = None
    answer: tuple[Written | Drawn, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def picture(self) -> Image.Image:
        """The drawn picture; an edit in its source's size, if the task says so."""
        return _picture(self.task, self.pixels)

    @property
    def parts(self) -> tuple[str | Drawn, ...]:
        """Words and pictures of an answer to a conversation, in order."""
        return shown_parts(self.answer)

    @property
    def turn(self) -> Turn:
        """The answer as the assistant's turn, to go on from."""
        return Turn.assistant(*(part.codes if isinstance(part, Drawn) else part for part in self.answer))

    def save(self, folder: Path | str, name: str = "picture") -> list[Path]:
        """Write the pictures as `folder/name.png`, `name_1.png`, ..., with `record` in their text chunks.

        Raises:
            OSError: the folder cannot be written or is full.
        """
        drawn = [part for part in self.answer if isinstance(part, Drawn)]
        pictures = [(self.codes, self.picture)] if self.codes else [(part.codes, part.picture) for part in drawn]
        records = [with_size(self.record, codes) for codes, _ in pictures]
        names = [name if k == 0 else f"{name}_{k}" for k in range(len(pictures))]
        return save_pictures(folder, names, [picture for _, picture in pictures], records)


@dataclass(frozen=True, eq=False, kw_only=True)
class Draft:
    """A sample while it is made: a picture's `pixels` uint8 [3, H, W], or the `text` of an answer, so far.

    `fraction` is the part of the picture's codes that is drawn; what is missing is filled in (see `partials`). A text
    holds whole characters alone. Of a turn of a conversation, this is the part under way, and `parts` are those before
    it, pictures without pixels. `error` says why a picture could not be shown.
    """

    task: Task
    sample: int
    seed: int
    fraction: float | None = None
    pixels: Tensor | None = None
    text: str | None = None
    parts: tuple[str | Drawn, ...] = ()
    error: Exception | None = None

    @property
    def picture(self) -> Image.Image:
        """The picture so far; an edit in its source's size, if the task says so."""
        return _picture(self.task, self.pixels)


OnDraft = Callable[[Draft], object]


def _picture(task: Task | None, pixels: Tensor | None) -> Image.Image:
    if pixels is None:
        raise ValueError("this result is not a picture")
    picture = to_picture(pixels)
    source = None if task is None else task.source
    return picture if source is None else unpad(picture, upright_size(source))


def shown_parts(answer: Sequence[Written | Drawn]) -> tuple[str | Drawn, ...]:
    """Words and pictures of an answer, without words that are white space alone."""
    texts = (part.text if isinstance(part, Written) else part for part in answer)
    return tuple(part for part in texts if part)


def undecodable(task: Task, error: Exception) -> RequestError:
    """The error of a task whose picture the decoder could not make."""
    failed = RequestError(f"request {name_of(task)!r}: its picture could not be decoded: {error}")
    failed.__cause__ = error
    return failed


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """Pictures, prompt by prompt, the seed of each, and how it was made.

    `images` is a list of PIL pictures, a float32 tensor [N, 3, H, W] in [0, 1], or a list of `ImageCodes`.
    """

    images: list[Image.Image] | Tensor | list[ImageCodes]
    seeds: list[int]
    records: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path | str) -> list[Path]:
        """Write PIL pictures as `folder/0000.png` and so on, prompt, seed and settings in their text chunks.

        Raises:
            InputError: the output is no PIL pictures.
            OSError: the folder cannot be written or is full.
        """
        pictures = [image for image in self.images if isinstance(image, Image.Image)]
        if len(pictures) < len(self.images):
            raise InputError('only PIL pictures can be saved; call the pipeline with output_type="pil"')
        return save_pictures(folder, [f"{number:04d}" for number in range(len(pictures))], pictures, self.records)


def save_pictures(
    folder: Path | str, names: Sequence[str], pictures: Sequence[Image.Image], records: Sequence[dict[str, Any]]
) -> list[Path]:
    """Write PNG files with records; each appears when it is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in names]
    for path, picture, record in zip(paths, pictures, records, strict=True):
        write_png(path, picture, record)
    return paths
