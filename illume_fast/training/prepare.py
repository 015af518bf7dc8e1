"""Turns the Noto Emoji set's CSVs into ILLUME+'s conversations: captions, text-to-image and edits, by split."""

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
    """`data` holds emoji.csv, edits.csv and images/; `out` receives <split>/{captions,text_to_image,editing}.jsonl."""

    data: Path
    out: Path


def main(config: PrepareConfig) -> None:
    """Write the conversations of every split and print how many there are."""
    emoji = load_emoji(config.data)
    for split in sorted({row.split for row in emoji.rows}):
        for task, conversations in conversations_of(emoji, split).items():
            path = config.out / split / f"{task}.jsonl"
            print(f"{path}: {write_conversations(path, conversations)} conversations")


def conversations_of(emoji: EmojiSet, split: str) -> dict[str, list[Conversation]]:
    """The three tasks of one split; pictures are named relative to the data folder."""
    path = [f"images/{row.id}.png" for row in emoji.rows]
    rows = emoji.split(split)
    edits = [edit for edit in emoji.edits if edit.split == split]
    return {
        "captions": [Conversation((path[i],), (NAME_IT, emoji.rows[i].name)) for i in rows],
        "text_to_image": [Conversation((path[i],), (DRAW_IT.format(emoji.rows[i].name), "<image>")) for i in rows],
        "editing": [
            Conversation((path[e.source], path[e.target]), (EDIT_IT.format(e.instruction), "<image>")) for e in edits
        ],
    }
