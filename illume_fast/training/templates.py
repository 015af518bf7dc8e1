"""Conversations as ids with open places, to be filled with a picture's codes or features when a batch is made."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from illume_fast.data.chat import Chat, Message, Part, ReadImage, SizeTag, parse_marks
from illume_fast.data.jsonl import Conversation
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import ImageGrid
from illume_fast.model.image_block import PIXEL_SLOT, SEMANTIC_SLOT, block_slots
from illume_fast.model.vocab import IGNORE_INDEX, IMAGE_PLACEHOLDER

READ_SLOTS = (SEMANTIC_SLOT, PIXEL_SLOT)
WRITTEN_SLOTS = (SEMANTIC_SLOT - 2, PIXEL_SLOT - 2)


@dataclass(frozen=True)
class Template:
    """ids int64 [L] with slots for features read and codes written, learnt bool [L], numbers of the pictures."""

    ids: Tensor
    learnt: Tensor
    read: tuple[int, ...]
    written: tuple[int, ...]


@dataclass(frozen=True)
class Filled:
    """A padded batch of templates: ids int64 [B, T] (slots for features still open), labels int64 [B, T]."""

    ids: Tensor
    labels: Tensor


class TemplateMaker:
    """Conversations with pictures of one size -> templates."""

    def __init__(self, chat: Chat, grid: ImageGrid):
        self.chat, self.grid = chat, grid
        self.size = (grid.height, grid.width)
        zeros = (torch.zeros(shape, dtype=torch.int64) for shape in grid.levels)
        self._blank = ImageCodes(grid.height, grid.width, tuple(zeros))
        self._slots: list[int] = block_slots(chat.vocab, grid.levels).tolist()
        self._open = [slot - 2 if slot < 0 else slot for slot in self._slots]

    def of(self, conversation: Conversation, numbers: Sequence[int]) -> Template:
        """`numbers` are those of the conversation's pictures, in order. A size tag stands before every picture of a
        conversation that writes one."""
        writes = any("<image>" in turn for turn in conversation.turns[1::2])
        messages: list[Message] = []
        read: list[int] = []
        written: list[int] = []
        left = iter(numbers)
        for i, turn in enumerate(conversation.turns):
            parts: list[Part] = []
            for part in parse_marks(turn, self.size):
                if not isinstance(part, ReadImage):
                    parts.append(part)
                    continue
                (written if i % 2 else read).append(next(left))
                parts += [SizeTag(*self.size)] if writes else []
                parts.append(self._blank if i % 2 else part)
            messages.append(Message("assistant" if i % 2 else "user", tuple(parts)))
        return self.encode(messages, read, written)

    def encode(self, messages: Sequence[Message], read: Sequence[int], written: Sequence[int]) -> Template:
        """Messages, with blank pictures written, -> a template."""
        plain, labels = self.chat.encode(messages)
        ids: list[int] = []
        learnt: list[bool] = []
        place = 0
        while place < len(plain):
            learns = labels[place] != IGNORE_INDEX
            if plain[place] == IMAGE_PLACEHOLDER:
                ids += self._slots
                learnt += [False] * len(self._slots)
                place += 1
            elif plain[place] == self.chat.vocab.start_of_image:
                ids += self._open
                learnt += [learns] * len(self._open)
                place += len(self._open)
            else:
                ids.append(plain[place])
                learnt.append(learns)
                place += 1
        return Template(torch.tensor(ids), torch.tensor(learnt), tuple(read), tuple(written))

    def blank(self) -> ImageCodes:
        """A picture to be written whose codes are open."""
        return self._blank


def fill(templates: Sequence[Template], codes: Sequence[Tensor], offsets: Sequence[int]) -> Filled:
    """Puts codes into the written slots: `codes` are int [n, h * w] and [n, p * q] of the n pictures written, in order,
    `offsets` the first id of each level."""
    ids = pad_sequence([t.ids for t in templates], batch_first=True)
    learnt = pad_sequence([t.learnt for t in templates], batch_first=True)
    for slot, values, offset in zip(WRITTEN_SLOTS, codes, offsets, strict=True):
        ids[ids == slot] = values.flatten().to(torch.int64) + offset
    return Filled(ids, torch.where(learnt, ids, IGNORE_INDEX))
