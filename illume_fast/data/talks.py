"""Files of conversations: one a line of a .jsonl file, in the usual form or in ILLUME+'s."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.jsonl import conversation_of, read_lines
from illume_fast.data.sizes import Size
from illume_fast.data.turns import Turn, turns_of, turns_of_conversation


@dataclass(frozen=True, eq=False)
class Talk:
    """A conversation and where it stands; `as_is` where its texts hold the prompts of the training already."""

    where: str
    turns: list[Turn]
    as_is: bool = False


def read_talks(path: Path, size: Size | None = None) -> Iterator[Talk]:
    """The conversations of a file: a line is a list of messages, {"messages"}, or {"images", "conversations"}.

    Paths of pictures are looked for from the file's folder; `size` is what `{resolution_tag}` stands for.

    Raises:
        InputError: the file or a line cannot be used; the message names it.
    """
    for where, value in read_lines(path):
        yield _talk(value, where, path.parent, size)


def _talk(value: Any, where: str, folder: Path, size: Size | None) -> Talk:
    if isinstance(value, dict) and "conversations" in value:
        return Talk(where, turns_of_conversation(conversation_of(value, where), folder, where, size), as_is=True)
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        forms = 'a list of messages, {"messages"} or {"images", "conversations"}'
        raise InputError(f"{where}: expected {forms}, got {shorten(value)}")
    try:
        return Talk(where, turns_of(messages, folder=folder))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
