"""Conversations with pictures as ILLUME+ keeps them: one JSON object a line,
`{"images": [path, ...], "conversations": [{"from": "human" | "gpt", "value": text}, ...]}`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_pixels

ROLES = ("human", "gpt")


@dataclass(frozen=True, slots=True)
class Conversation:
    """`turns` alternate human and gpt; each `<image>` in them stands for the next of `images`."""

    images: tuple[str, ...]
    turns: tuple[str, ...]


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of a .jsonl file, each with where it stands ("FILE line N"); empty lines are left out.

    InputError, naming the file and the line, for what cannot be read or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    # str.splitlines would also part lines at signs that JSON allows inside a text
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: not JSON: {error}") from None
            yield where, value


def read_conversations(path: Path | str) -> list[Conversation]:
    """All lines of a jsonl file. InputError names the file, the line and what is wrong with it."""
    found = [conversation_of(value, where) for where, value in read_lines(Path(path))]
    if not found:
        raise InputError(f"{path} holds no conversations")
    return found


def conversation_of(value: object, where: str) -> Conversation:
    """The conversation in one line's JSON. InputError, beginning with `where`, for what is none."""
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: expected an object with a list 'conversations'")
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("from") != ROLES[i % 2] or not isinstance(turn.get("value"), str):
            raise InputError(f"{where}: turn {i} must be from {ROLES[i % 2]!r} and hold a text 'value'")
    assert isinstance(value, dict)
    images = value.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InputError(f"{where}: 'images' must be a list of paths")
    holes = sum(turn["value"].count("<image>") for turn in turns)
    if holes != len(images):
        raise InputError(f"{where}: {len(images)} images for {holes} places '<image>'")
    return Conversation(tuple(images), tuple(turn["value"] for turn in turns))


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write a jsonl file in one move; returns the number of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, count = path.with_name(path.name + ".tmp"), 0
    with temporary.open("w", encoding="utf-8") as file:
        for item in conversations:
            count += 1
            turns = [{"from": ROLES[i % 2], "value": text} for i, text in enumerate(item.turns)]
            value = {"images": list(item.images), "conversations": turns}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    temporary.replace(path)
    return count


class Pictures:
    """Every picture that some conversations name, decoded once: `pixels` uint8 [N, 3, size, size], `number[path]`."""

    def __init__(self, root: Path | str, paths: Iterable[str], size: int):
        unique = list(dict.fromkeys(paths))
        self.number = {path: i for i, path in enumerate(unique)}
        arrays = [load_pixels(Path(root) / path, size) for path in unique]
        empty = np.zeros((0, 3, size, size), dtype=np.uint8)
        self.pixels: Tensor = torch.from_numpy(np.stack(arrays) if arrays else empty)

    def numbers(self, paths: Sequence[str]) -> Tensor:
        """Paths -> int64 [N]."""
        return torch.tensor([self.number[path] for path in paths])
