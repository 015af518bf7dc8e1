"""Conversations as they are given: who says what, in words and pictures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from illume_fast.data.chat import ROLES, ReadImage, SizeTag, Written, parse_marks
from illume_fast.data.errors import InputError, shorten
from illume_fast.data.jsonl import Conversation
from illume_fast.data.picture import load_picture
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size

TurnPart = str | Image.Image | SizeTag | ImageCodes | Written


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says, in order.

    A user says words and shows pictures (PIL), which the model reads; size tags stand as they are. The assistant's
    turns hold words, and pictures that it wrote: their codes, or PIL pictures, which are turned into codes.
    """

    role: str
    parts: tuple[TurnPart, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role {shorten(self.role)} is not allowed; allowed are {', '.join(ROLES)}")
        for part in self.parts:
            if not isinstance(part, TurnPart):
                raise InputError(f"a turn holds texts, PIL pictures and codes, got {type(part).__name__}")
            if self.role == "user" and isinstance(part, ImageCodes | Written):
                raise InputError("a user shows pictures as PIL pictures; codes stand in the assistant's turns")
        if self.role == "user" and not any(not isinstance(part, str) or part.strip() for part in self.parts):
            raise InputError("a turn of the user is empty")

    @classmethod
    def user(cls, *parts: TurnPart) -> Self:
        """A turn of the user."""
        return cls("user", parts)

    @classmethod
    def assistant(cls, *parts: TurnPart) -> Self:
        """A turn of the assistant."""
        return cls("assistant", parts)

    @property
    def pictures(self) -> list[Image.Image]:
        """The PIL pictures in it."""
        return [part for part in self.parts if isinstance(part, Image.Image)]

    @property
    def words(self) -> str:
        """The texts in it, with a space between those that a picture parts."""
        texts = (part.text if isinstance(part, Written) else part for part in self.parts)
        return " ".join(text.strip() for text in texts if isinstance(text, str) and text.strip())


def turns_of(messages: Iterable[Any], images: Iterable[Image.Image] = (), folder: Path = Path()) -> list[Turn]:
    """Turns, or messages in the usual form {"role", "content"}, as turns.

    A content is a text, or a list of {"type": "text", "text"} and {"type": "image", "image"}, whose image is a PIL
    picture, codes, or the path of a file, from `folder`. An {"type": "image"} without one takes the next of `images`.

    Raises:
        InputError: a message has another form, a picture cannot be read, or `images` are too few or too many.
    """
    if not isinstance(images, Iterable):
        raise InputError(f"images must be a list of pictures, got {shorten(images)}")
    left = iter(images)
    turns = [
        message if isinstance(message, Turn) else _turn(message, f"message {number}", left, folder)
        for number, message in enumerate(messages)
    ]
    if spare := len(list(left)):
        raise InputError(f"{spare} more pictures than places for them in the messages")
    return turns


def turns_of_conversation(conversation: Conversation, folder: Path, where: str, size: Size | None = None) -> list[Turn]:
    """A conversation as ILLUME+ keeps them: each `<image>` is the picture of a file, from `folder`.

    `size` is what `{resolution_tag}` stands for; InputError, beginning with `where`, for what cannot be used.
    """
    files = iter(conversation.images)
    turns = []
    for number, text in enumerate(conversation.turns):
        try:
            marks = parse_marks(text, size)
            parts = [load_picture(folder / next(files)) if isinstance(p, ReadImage) else p for p in marks]
            turns.append(Turn(ROLES[number % 2], tuple(p for p in parts if isinstance(p, TurnPart))))
        except InputError as error:
            raise InputError(f"{where}: turn {number}: {error}") from None
    return turns


def _turn(message: Any, where: str, images: Iterator[Image.Image], folder: Path) -> Turn:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise InputError(f'{where}: expected {{"role", "content"}}, got {shorten(message)}')
    content = message["content"]
    if not isinstance(content, str | Sequence):
        raise InputError(f"{where}: the content must be a text or a list, got {shorten(content)}")
    try:
        items = [content] if isinstance(content, str) else [_part(item, images, folder) for item in content]
        return Turn(message["role"], tuple(items))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _part(item: Any, images: Iterator[Image.Image], folder: Path) -> TurnPart:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "text" and isinstance(item.get("text"), str):
        return item["text"]
    if kind != "image":
        raise InputError(f'expected {{"type": "text", "text"}} or {{"type": "image", "image"}}, got {shorten(item)}')
    given = item.get("image", item.get("path"))
    if given is None:
        given = next(images, None)
        if given is None:
            raise InputError("there is no picture for an image; give its path, or as many pictures as images")
    if isinstance(given, str | Path):
        return load_picture(folder / given)
    if not isinstance(given, Image.Image | ImageCodes):
        raise InputError(f"an image must be a PIL picture, codes or a path, got {type(given).__name__}")
    return given
