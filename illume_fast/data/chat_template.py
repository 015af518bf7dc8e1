"""How families of language models write conversations down."""

from dataclasses import dataclass
from enum import Enum

from illume_fast.data.errors import InputError


class Control(Enum):
    """The control tokens of a template: what a vocabulary calls `im_start` and `im_end`."""

    START = "im_start"
    END = "im_end"


Piece = str | Control


@dataclass(frozen=True)
class ChatTemplate:
    """What stands before and after the words of each role, and what the tokenizer calls its control tokens.

    Words and the texts beside them are encoded together, up to the next control token, picture, or edge of an answer.
    `specials` are the tokenizer's names of the padding, `START` and `END`; `system` is the default system message.
    """

    name: str
    specials: tuple[str, str, str]
    system: str
    around: dict[str, tuple[tuple[Piece, ...], tuple[Piece, ...]]]


def _qwen2(role: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    return (Control.START, f"{role}\n"), (Control.END, "\n")


QWEN2 = ChatTemplate(
    name="qwen2",
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    system="You are a helpful assistant.",
    around={role: _qwen2(role) for role in ("system", "user", "assistant")},
)

# Vicuna 1.1 and later (Chiang et al., lmsys.org, 2023): an answer's first token brings its own space
VICUNA = ChatTemplate(
    name="vicuna",
    specials=("<pad>", "<s>", "</s>"),
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    around={
        "system": ((Control.START,), (" ",)),
        "user": (("USER: ",), (" ",)),
        "assistant": (("ASSISTANT:",), (Control.END,)),
    },
)

TEMPLATES = {template.name: template for template in (QWEN2, VICUNA)}


def chat_template(name: str) -> ChatTemplate:
    """The template that a checkpoint's configuration names. InputError, listing all, for another name."""
    if name not in TEMPLATES:
        raise InputError(f"chat template {name!r} is not known; allowed are {', '.join(map(repr, TEMPLATES))}")
    return TEMPLATES[name]
