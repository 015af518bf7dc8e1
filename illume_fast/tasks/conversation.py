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
    return _encoded(tools, [_said(tools, turn, task) for turn in task.messages], ())


def picture_prompt(tools: Tools, task: Converse, size: Size) -> tuple[Segment, ...]:
    """The conversation, and the size tag of the picture that answers it."""
    *before, last = task.messages
    return _encoded(tools, [*(_said(tools, t, task) for t in before), _picture_asked(tools, task, last, size)], [size])


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


def _said(tools: Tools, turn: Turn, task: Converse) -> Said:
    parts: list[Part] = []
    for part in turn.parts:
        if isinstance(part, Image.Image | ImageCodes):
            parts += [ReadImage()] if turn.role == "user" else _written(tools, part)
        else:
            parts.append(part)
    read = turn.pictures if turn.role == "user" else []
    pictures = tuple(tools.eyes.understood(picture, task.max_pixels) for picture in read)
    return Said(Message(turn.role, spaced(parts)), pictures)


def _written(tools: Tools, picture: Image.Image | ImageCodes) -> tuple[Part, ...]:
    codes = picture if isinstance(picture, ImageCodes) else tools.codes_of(picture)
    wanted = tools.grid((codes.height, codes.width)).levels
    if (given := tuple(tuple(level.shape) for level in codes.levels)) != wanted:
        raise InputError(f"a picture of {codes.height}x{codes.width} has the codes {wanted}, got {given}")
    return written_image(codes).parts


def _picture_asked(tools: Tools, task: Converse, turn: Turn, size: Size) -> Said:
    """The turn that asks for a picture: pictures to change behind their size tags, then the words."""
    sizes, pictures = _framed(tools, turn.pictures, size)
    if task.as_is:
        left = iter(sizes)
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, Image.Image):
                parts += [SizeTag(*next(left)), ReadImage()]
            else:
                parts.append(part)
        return Said(Message("user", spaced(parts)), pictures)
    if not turn.words:
        raise InputError("the prompt is empty")
    if any(isinstance(part, Image.Image | ImageCodes) for earlier in task.messages for part in earlier.parts):
        return Said(edit_image(turn.words, *sizes), pictures)
    return Said(text_to_image(turn.words, size))


def _framed(tools: Tools, shown: Sequence[Image.Image], size: Size) -> tuple[list[Size], tuple[Segment, ...]]:
    """Sizes of pictures to change, the first being that of the answer and the others the nearest, and features."""
    sizes = [size, *(nearest_size(upright_size(picture), tools.generation.sizes) for picture in shown[1:])]
    sizes = sizes[: len(shown)]
    return sizes, tuple(tools.eyes.framed(picture, s) for picture, s in zip(shown, sizes, strict=True))
