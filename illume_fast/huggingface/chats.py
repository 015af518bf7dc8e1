"""Conversations as Hugging Face writes them: lists of {"role", "content"}."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from illume_fast.data.chat import Chat, Message, Part, ReadImage, SizeTag, parse_marks
from illume_fast.data.chat_template import QWEN2
from illume_fast.data.errors import InputError, shorten
from illume_fast.data.picture import load_picture
from illume_fast.data.prompts import check_characters
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size

Conversation = Sequence[Mapping[str, Any]]

# what `Chat` encodes, for programs that render templates themselves and know no codes
CHAT_TEMPLATE = (
    """\
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\n"""
    + QWEN2.system
    + """<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}{{ '<image>' }}
{%- elif part.type == 'size' %}{{ '<height_' ~ part.height ~ '><width_' ~ part.width ~ '>' }}
{%- else %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}{{ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
)


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as ids with placeholders, and the pictures for them: None where one is still to be given."""

    ids: list[int]
    pictures: tuple[Image.Image | None, ...]


def render(chat: Chat, conversation: Conversation, size: Size | None, add_generation_prompt: bool) -> Rendered:
    """Encode a conversation. Whatever a user's words hold, they stay words.

    `content` is a list of parts, {"type": "text", "text"}, {"type": "image", "image"?: a PIL picture, its file, or
    the codes that the assistant wrote} and {"type": "size", "height", "width"}; or a text in which `<image>` is a
    picture and `{resolution_tag}` the tag of `size`. A first message of the role "system" replaces the usual one.

    Raises:
        InputError: a role, a key or a type of part is not known.
    """
    if not conversation:
        raise InputError("the conversation is empty; give a message at least")
    messages, pictures = [], []
    for i, message in enumerate(conversation):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InputError(f"message {i}: expected a dict with 'role' and 'content', got {shorten(message)}")
        parts, seen = _parts(i, message["content"], size)
        pictures += seen
        if message["role"] == "system" and i == 0:
            chat = Chat(chat.text, chat.vocab, _words(i, parts))
            continue
        try:
            messages.append(Message(message["role"], tuple(parts)))
        except ValueError as error:
            raise InputError(f"message {i}: {error}") from None
    ids, _ = chat.encode(messages, () if add_generation_prompt else None)
    return Rendered(ids, tuple(pictures))


def texts_of(text: Any) -> list[Any]:
    """Texts and conversations of a call, as a list of them."""
    if text is None or (isinstance(text, list | tuple) and not text):
        raise InputError("there is no text; give a text, a conversation, or a list of either")
    if not isinstance(text, str | list | tuple):
        raise InputError(f"text: expected a text, a conversation, or a list of either, got {shorten(text)}")
    texts = [text] if isinstance(text, str) or isinstance(text[0], Mapping) else list(text)
    if wrong := [one for one in texts if not isinstance(one, str | list | tuple)]:
        raise InputError(f"text: {shorten(wrong[0])} is neither a text nor a conversation, a list of messages")
    return texts


def pictures_of(prompts: Sequence[Rendered], images: Any) -> list[Image.Image]:
    """The pictures of all prompts in order: those that came with them, and `images` for the other places."""
    empty = [sum(picture is None for picture in prompt.pictures) for prompt in prompts]
    given: list[Any] = [] if images is None else [images] if isinstance(images, Image.Image) else list(images)
    if given and all(isinstance(one, list | tuple) for one in given):
        if [len(one) for one in given] != empty:
            raise InputError(f"images: {[len(one) for one in given]} for texts with {empty} places for pictures")
        given = [picture for one in given for picture in one]
    if wrong := [type(one).__name__ for one in given if not isinstance(one, Image.Image)]:
        raise InputError(f"images: expected PIL pictures, got {wrong[0]}")
    if len(given) != sum(empty):
        raise InputError(f"images: {len(given)} given for {sum(empty)} places; each <image> needs one")
    every = iter(given)
    return [next(every) if picture is None else picture for prompt in prompts for picture in prompt.pictures]


def _parts(number: int, content: Any, size: Size | None) -> tuple[list[Part], list[Image.Image | None]]:
    if isinstance(content, str):
        check_characters(content, f"message {number}")
        parts = list(parse_marks(content, size))
        return parts, [None for part in parts if isinstance(part, ReadImage)]
    if not isinstance(content, Sequence):
        raise InputError(f"message {number}: content must be a text or a list of parts, got {shorten(content)}")
    parts, pictures = [], []
    for item in content:
        part = _part(number, item)
        parts.append(part)
        if isinstance(part, ReadImage):
            pictures.append(_picture(number, item))
    return parts, pictures


def _part(number: int, item: Any) -> Part:
    kind = item.get("type") if isinstance(item, Mapping) else None
    keys = set(item) - {"type"} if isinstance(item, Mapping) else set()
    if kind == "text" and keys == {"text"} and isinstance(item["text"], str):
        check_characters(item["text"], f"message {number}")
        return item["text"]
    if kind == "image" and keys <= {"image", "path"}:
        return item["image"] if isinstance(item.get("image"), ImageCodes) else ReadImage()
    if kind == "size" and keys == {"height", "width"}:
        return SizeTag(item["height"], item["width"])
    raise InputError(
        f"message {number}: {shorten(item)} is no part; allowed types are 'text' with text, 'image' with image or path,"
        " 'size' with height and width"
    )


def _picture(number: int, item: Mapping[str, Any]) -> Image.Image | None:
    # a key that is there with None, as tables fill it in, says nothing
    picture = item.get("path") if item.get("image") is None else item["image"]
    if isinstance(picture, str | Path):
        return load_picture(Path(picture), f"message {number}")
    if picture is None or isinstance(picture, Image.Image):
        return picture
    raise InputError(f"message {number}: an image must be a PIL picture, got {type(picture).__name__}; give its path")


def _words(number: int, parts: Sequence[Part]) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise InputError(f"message {number}: the system's message holds words alone")
    return "".join(map(str, parts))
