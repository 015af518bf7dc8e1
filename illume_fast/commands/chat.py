"""`illume-fast chat`: a question, about a picture or not, answered in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.options import ModelOptions, check_range
from illume_fast.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Chat(ModelOptions):
    """Answer a question in words, if wished about a picture."""

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to ask."""
    image: Annotated[Path | None, arg(metavar="FILE")] = None
    """The picture it is about."""
    max_tokens: Annotated[int | None, arg(metavar="N")] = None
    """Longest answer in tokens; by default the model's own limit."""


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
