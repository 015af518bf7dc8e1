"""Conversations as prompts: turns with pictures read and written, and what guidance leads away from.

Pictures that a user shows are read as features; pictures that were written stand in the prompt as the tokens they are,
behind their size tags (ILLUME+, Huang et al., arXiv 2504.01934).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from illume_fast.data.chat import (
    Message,
    Part,
    ReadImage,
    SizeTag,
    edit_image,
    random_image,
    reconstruct_image,
    text_to_image,
    written_image,
)
from illume_fast.data.errors import InputError
from illume_fast.data.picture import upright_size
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size, nearest_size
from illume_fast.data.turns import Turn
from illume_fast.engine import Segment
from illume_fast.tasks.asked import Converse
from illume_fast.tasks.plans import segments
from illume_fast.tasks.tools import Tools


@dataclass(frozen=True)
class Said:
    """A message and the features of the pictures in it."""

    message: Message
    pictures: tuple[Segment, ...] = ()


def prompt(tools: Tools, task: Converse) -> tuple[Segment, ...]:
    """The conversation, and the beginning of the answer in words."""
    return _encoded(tools, [_said(tools, task, i, None) for i in range(len(task.messages))], ())


def picture_prompt(tools: Tools, task: Converse, size: Size) -> tuple[Segment, ...]:
    """The conversation, and the size tag of the picture that answers it."""
    if not task.messages[-1].words:
        raise InputError("the prompt is empty")
    return _encoded(tools, [_said(tools, task, i, size) for i in range(len(task.messages))], [size])


def without_words(tools: Tools, task: Converse, size: Size) -> tuple[Segment, ...]:
    """What guidance leads away from when the answer has a picture of `size`.

    It is a prompt of the training without words (or with those of the negative prompt): for an edit if a user has
    shown pictures, and then those shown last are kept, otherwise for text-to-image. The words of the answer before the
    picture are not in it, as in the official code.
    """
    away = task.negative_prompt
    shown = next((turn.pictures for turn in reversed(task.messages) if turn.role == "user" and turn.pictures), [])
    if not shown:
        message = random_image(size) if away is None else text_to_image(away, size)
        return _encoded(tools, [Said(message)], [size])
    sizes, pictures = _framed(tools, shown, size)
    message = reconstruct_image(*sizes) if away is None else edit_image(away, *sizes)
    return _encoded(tools, [Said(message, pictures)], [size])


def size_asked(tools: Tools, task: Converse) -> Size:
    """The size of the one picture that answers."""
    sources = task.messages[-1].pictures
    if task.size is None and sources:
        return nearest_size(upright_size(sources[0]), tools.generation.sizes)
    grid = tools.grid(task.size)
    return grid.height, grid.width


def spaced(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts as the training laid them out: a space between pictures read, a line end between one and words."""
    found: list[Part] = []
    for part in parts:
        if found and isinstance(found[-1], ReadImage):
            if isinstance(part, ReadImage):
                found.append(" ")
            elif isinstance(part, str) and not part[:1].isspace():
                found.append("\n")
        found.append(part)
    return tuple(found)


def _encoded(tools: Tools, said: Sequence[Said], tag: Sequence[Size]) -> tuple[Segment, ...]:
    ids, _ = tools.chat.encode([s.message for s in said], [SizeTag(*size) for size in tag])
    return segments(ids, [picture for s in said for picture in s.pictures])


def _said(tools: Tools, task: Converse, number: int, asked: Size | None) -> Said:
    """The `number`-th turn; `asked` is the size of a picture that answers the last one.

    A turn that a picture alone answers, now or before, is put into the prompts of the training.
    """
    turn, later = task.messages[number], task.messages[number + 1 :]
    if turn.role == "assistant":
        parts: list[Part] = []
        for part in turn.parts:
            parts += _written(tools, part) if isinstance(part, Image.Image | ImageCodes) else (part,)
        return Said(Message("assistant", tuple(parts)))
    size = _size_of_answer(tools, later[0]) if later else asked
    if size is not None and turn.words:
        seen = any(_is_picture(part) for earlier in task.messages[: number + 1] for part in earlier.parts)
        return _picture_asked(tools, turn, size, seen, task.as_is)
    pictures = tuple(tools.eyes.understood(picture, task.max_pixels) for picture in turn.pictures)
    return Said(Message("user", spaced(_read(turn))), pictures)


def _picture_asked(tools: Tools, turn: Turn, size: Size, seen: bool, as_is: bool) -> Said:
    """A turn that asks for a picture: an edit where one was `seen`, text-to-image otherwise."""
    sizes, pictures = _framed(tools, turn.pictures, size)
    if as_is:
        return Said(Message("user", spaced(_read(turn))), pictures)
    return Said(edit_image(turn.words, *sizes) if seen else text_to_image(turn.words, size), pictures)


def _size_of_answer(tools: Tools, turn: Turn) -> Size | None:
    """The size of the picture that alone is an answer, or None."""
    if len(turn.parts) != 1 or not _is_picture(turn.parts[0]):
        return None
    (picture,) = turn.parts
    if isinstance(picture, ImageCodes):
        return picture.height, picture.width
    return nearest_size(upright_size(turn.pictures[0]), tools.generation.sizes)


def _written(tools: Tools, picture: Image.Image | ImageCodes) -> tuple[Part, ...]:
    codes = picture if isinstance(picture, ImageCodes) else tools.codes_of(picture)
    wanted = tools.grid((codes.height, codes.width)).levels
    if (given := tuple(tuple(level.shape) for level in codes.levels)) != wanted:
        raise InputError(f"a picture of {codes.height}x{codes.width} has the codes {wanted}, got {given}")
    return written_image(codes).parts


def _read(turn: Turn) -> list[Part]:
    return [ReadImage() if isinstance(part, Image.Image) else part for part in turn.parts]


def _is_picture(part: object) -> bool:
    return isinstance(part, Image.Image | ImageCodes)


def _framed(tools: Tools, shown: Sequence[Image.Image], size: Size) -> tuple[list[Size], tuple[Segment, ...]]:
    """Sizes of pictures to change, the first being that of the answer and the others the nearest, and features."""
    sizes = [size, *(nearest_size(upright_size(picture), tools.generation.sizes) for picture in shown[1:])]
    sizes = sizes[: len(shown)]
    return sizes, tuple(tools.eyes.framed(picture, s) for picture, s in zip(shown, sizes, strict=True))
