"""What comes out of a pipeline: samples that are done, and samples while they are made."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from illume_fast.data.image import to_picture, unpad
from illume_fast.data.sequence import ImageCodes
from illume_fast.engine import RequestError
from illume_fast.tasks import Ask, Draw, name_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Done:
    """A finished sample of a task: `pixels` uint8 [3, H, W] and `codes` of a picture, or the `text` of an answer.

    When it failed, `error` says why, naming the task.
    """

    task: Draw | Ask
    sample: int
    seed: int
    pixels: Tensor | None = None
    codes: ImageCodes | None = None
    text: str | None = None
    error: Exception | None = None

    @property
    def picture(self) -> Image.Image:
        """The drawn picture; an edit in its source's size, if the task says so."""
        return _picture(self.task, self.pixels)


@dataclass(frozen=True, eq=False, kw_only=True)
class Draft:
    """A sample while it is made: a picture's `pixels` uint8 [3, H, W], or the `text` of an answer, so far.

    `fraction` is the part of the picture's codes that is drawn; what is missing is filled in (see `partials`). A text
    holds whole characters alone. `error` says why a picture could not be shown.
    """

    task: Draw | Ask
    sample: int
    seed: int
    fraction: float | None = None
    pixels: Tensor | None = None
    text: str | None = None
    error: Exception | None = None

    @property
    def picture(self) -> Image.Image:
        """The picture so far; an edit in its source's size, if the task says so."""
        return _picture(self.task, self.pixels)


OnDraft = Callable[[Draft], object]


def _picture(task: Draw | Ask, pixels: Tensor | None) -> Image.Image:
    if pixels is None:
        raise ValueError("this result is not a picture")
    picture = to_picture(pixels)
    source = task.image if isinstance(task, Draw) and task.restore else None
    return picture if source is None else unpad(picture, (source.height, source.width))


def undecodable(task: Draw | Ask, error: Exception) -> RequestError:
    """The error of a task whose picture the decoder could not make."""
    failed = RequestError(f"request {name_of(task)!r}: its picture could not be decoded: {error}")
    failed.__cause__ = error
    return failed


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """Pictures, prompt by prompt, and the seed of each.

    `images` is a list of PIL pictures, a float32 tensor [N, 3, H, W] in [0, 1], or a list of `ImageCodes`.
    """

    images: list[Image.Image] | Tensor | list[ImageCodes]
    seeds: list[int]
