"""`illume-fast generate`: pictures for a prompt, or for every row of a prompt file."""

from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.drawing import draw, slug
from illume_fast.commands.options import DrawOptions
from illume_fast.data.prompts import is_prompt_file, one_prompt, read_prompts


@dataclass(frozen=True, kw_only=True)
class Generate(DrawOptions):
    """Draw pictures for a prompt or a prompt file.

    Writes OUT/images/ID_K.png, OUT/results.jsonl and OUT/contact_sheet.png. Started again after it was stopped, it
    draws only what is missing.
    """

    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")]
    """A prompt file (.txt, .jsonl, .csv, .tsv or .parquet) or a prompt in quotes."""


def generate(options: Generate) -> None:
    """Draw what `options` asks for."""
    if is_prompt_file(options.prompts):
        prompts = read_prompts(options.prompts)
    else:
        # a prompt file numbers its rows; a lone prompt is better found under its words
        prompt = one_prompt(options.prompts)
        prompts = [replace(prompt, id=slug(prompt.prompt))]
    draw(prompts, options)
