"""Turns the Noto Emoji set's CSVs into ILLUME+'s conversations: captions, text-to-image and edits, by split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from illume_fast.data.emoji import EmojiSet, load_emoji
from illume_fast.data.jsonl import Conversation, write_conversations

# `{resolution_tag}` is ILLUME+'s place for the size; it is filled in when the conversation becomes ids
NAME_IT = "<image>\nWhat is in the picture?"
DRAW_IT = "Generate an image of {{resolution_tag}}, the content of image is {}\n"
EDIT_IT = "<image>\nPlease edit the image according to the instruction: {}\n"


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """`data` holds emoji.csv, edits.csv and images/; `out` receives <split>/{captions,text_to_image,editing}.jsonl.

    `repeat` is how often `train` gets what little else resembles: pictures without relatives, and edits of a kind that
    is at least so many times rarer than the commonest. The tones and genders of one thing teach each other.
    """

    data: Path
    out: Path
    repeat: int = 3


def main(config: PrepareConfig) -> None:
    """Write the conversations of every split and print how many there are."""
    emoji = load_emoji(config.data)
    for split in sorted({row.split for row in emoji.rows}):
        repeat = config.repeat if split == "train" else 1
        for task, conversations in conversations_of(emoji, split, repeat).items():
            path = config.out / split / f"{task}.jsonl"
            print(f"{path}: {write_conversations(path, conversations)} conversations")


def conversations_of(emoji: EmojiSet, split: str, repeat: int = 1) -> dict[str, list[Conversation]]:
    """The three tasks of one split; pictures are named relative to the data folder."""
    path = [f"images/{row.id}.png" for row in emoji.rows]
    rows = emoji.split(split)
    relatives = Counter(emoji.rows[i].base for i in rows)
    rows = [i for i in rows for _ in range(repeat if relatives[emoji.rows[i].base] == 1 else 1)]
    edits = [edit for edit in emoji.edits if edit.split == split]
    kinds = Counter(edit.kind for edit in edits)
    most = max(kinds.values(), default=0)
    edits = [edit for edit in edits for _ in range(repeat if kinds[edit.kind] * repeat <= most else 1)]
    return {
        "captions": [Conversation((path[i],), (NAME_IT, emoji.rows[i].name)) for i in rows],
        "text_to_image": [Conversation((path[i],), (DRAW_IT.format(emoji.rows[i].name), "<image>")) for i in rows],
        "editing": [
            Conversation((path[e.source], path[e.target]), (EDIT_IT.format(e.instruction), "<image>")) for e in edits
        ],
    }
