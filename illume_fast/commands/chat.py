"""`illume-fast chat`: questions about pictures or not, answered in words, and in pictures where they are wanted."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from illume_fast.commands.options import MODELS_OWN, NONE, DecoderOptions, ModelOptions, check_guidance, check_range
from illume_fast.data.errors import InputError
from illume_fast.data.prompts import MAX_SEED, parse_size
from illume_fast.jobs.config import check_bounds, option

_COUNT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Chat(DecoderOptions, ModelOptions):
    """Talk with a model: answer a question, the lines of stdin one after the other, or a file of conversations.

    Answers are words; with --out also pictures, where the model begins one. On a terminal without a question it asks
    for one after the other; a line "/image FILE" shows a picture with the next one. The same conversation always has
    the same answers.
    """

    prompt: Annotated[Positional[str | None], arg(metavar="PROMPT", help_behavior_hint="")] = None
    """What to ask, in quotes. Left out, each line of stdin is the next thing that is asked."""
    image: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE", help_behavior_hint="(repeatable)")] = ()
    """A picture that the question, or the first of them, is about."""
    turns: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=NONE)] = None
    """A .jsonl file with a conversation a line, answered side by side: a list of {"role", "content"} messages, or
    {"images", "conversations"} as ILLUME+ keeps them. Every turn of a user without an answer gets one. The answers are
    written to stdout, a conversation a line."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=NONE)] = None
    """Folder for the pictures that the model draws; made if it does not exist."""
    answer: Annotated[
        Literal["text", "image", "interleaved"] | None,
        arg(help_behavior_hint="(default: interleaved with --out, text without)"),
    ] = None
    """text: words; image: exactly one picture; interleaved: words, and pictures where the model begins one."""
    size: Annotated[str | None, arg(metavar="HxW", help_behavior_hint="(default: as the model chooses)")] = None
    """Height and width of the pictures, one of those that the model draws."""
    max_tokens: Annotated[int | None, arg(metavar="N", help_behavior_hint=MODELS_OWN)] = None
    """Longest answer, in tokens of words; a token is a word or a part of one."""
    max_pixels: Annotated[int | None, arg(metavar="N", help_behavior_hint=MODELS_OWN)] = None
    """Pictures of more pixels are read smaller."""
    temperature: Annotated[float, arg(metavar="T")] = 0.0
    """How much chance has a say in the words: 0 always takes the likeliest token."""
    guidance: Annotated[float | None, arg(metavar="G", help_behavior_hint=MODELS_OWN)] = None
    """How strongly pictures follow what was said, from 0 to 100; 1 is no guidance."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Number that chance starts from."""

    def check(self) -> None:
        """Raise InputError for options that cannot be used, alone or together."""
        if self.prompt is not None and not self.prompt.strip():
            raise InputError("the prompt is empty; say what to ask")
        about_pictures = self.decoder, self.diffusion_steps, self.diffusion_scheduler, self.diffusion_guidance
        if self.out is None and any(value is not None for value in about_pictures):
            raise InputError("--decoder and --diffusion options are about pictures; give --out DIR, or leave them out")
        if self.turns is not None and (self.prompt is not None or self.image):
            raise InputError("--turns has its own questions and pictures; leave out PROMPT and --image")
        if self.answer in ("image", "interleaved") and self.out is None:
            raise InputError(f"--answer {self.answer} needs a folder for the pictures; give --out DIR")
        check_range("--max-tokens", self.max_tokens, 1, _COUNT)
        check_range("--max-pixels", self.max_pixels, 1, _COUNT)
        check_range("--temperature", self.temperature, 0, 1000)
        check_range("--seed", self.seed, 0, MAX_SEED)
        check_guidance(self.guidance)
        check_bounds(self, option, ("diffusion_steps", "diffusion_guidance"))
        if self.size is not None:
            parse_size(self.size)

    @property
    def kind(self) -> Literal["text", "image", "interleaved"]:
        """What answers are."""
        return self.answer or ("text" if self.out is None else "interleaved")


def chat(options: Chat) -> int:
    """Answer what `options` asks; the exit code, 1 if an answer of a file failed."""
    options.check()
    from illume_fast.commands.talking import Session, answer_file
    from illume_fast.jobs.loading import ModelSource
    from illume_fast.jobs.painter import load_painter

    with load_painter(ModelSource.of(options), options.backend) as painter:
        if options.out is not None:
            painter.check_decoder(options)
        if options.turns is not None:
            return answer_file(painter.pipeline, options)
        session = Session(painter.pipeline, options)
        if options.prompt is not None:
            session.say(options.prompt)
        elif sys.stdin.isatty():
            session.on_terminal()
        else:
            session.of_lines(sys.stdin)
    return 0
