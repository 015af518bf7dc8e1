"""`illume-fast chat`: a question, about a picture or not, answered in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.options import MODELS_OWN, NONE, ModelOptions, check_range
from illume_fast.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Chat(ModelOptions):
    """Answer a question in words, if wished about a picture. The same question always has the same answer."""

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to ask, in quotes."""
    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=NONE)] = None
    """The picture that it is about."""
    max_tokens: Annotated[int | None, arg(metavar="N", help_behavior_hint=MODELS_OWN)] = None
    """Longest answer, in tokens; a token is a word or a part of one."""


def chat(options: Chat) -> None:
    """Print the answer to what `options` asks."""
    if not options.prompt.strip():
        raise InputError("the prompt is empty; say what to ask")
    check_range("--max-tokens", options.max_tokens, 1, 2**31 - 1)
    from illume_fast.data.picture import load_picture
    from illume_fast.jobs.painter import load_painter

    picture = None if options.image is None else load_picture(options.image)
    with load_painter(options.model, options.backend) as painter:
        print(painter.answer(options.prompt, picture, options.max_tokens))
