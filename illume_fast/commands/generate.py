"""`illume-fast generate`: pictures for a prompt, or for every row of a prompt file."""

from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.drawing import draw, slug
from illume_fast.commands.options import DrawOptions
from illume_fast.data.prompt_files import is_prompt_file
from illume_fast.data.prompts import one_prompt
from illume_fast.jobs.source import PromptFile, Prompts


@dataclass(frozen=True, kw_only=True)
class Generate(DrawOptions):
    """Draw pictures for a prompt or a prompt file.

    Writes OUT/images/ID_K.png, OUT/results.jsonl and OUT/contact_sheet.png. Started again after it was stopped, it
    draws only what is missing, and tries again what failed. Exits with 1 when rows failed: OUT/failures.jsonl says why.
    """

    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")]
    """A prompt in quotes, or a prompt file: .txt with a prompt a line, or .jsonl, .csv, .tsv or .parquet.
    Rows of these have a prompt and, if wished, an id, a seed, a size, num_images, an image to edit, guidance,
    a negative_prompt, guidance_from and guidance_until. What a row says wins over the options."""


def generate(options: Generate) -> int:
    """Draw what `options` asks for; the exit code."""
    if is_prompt_file(options.prompts):
        return draw(PromptFile(options.prompts), options)
    # a prompt file numbers its rows; a lone prompt is better found under its words
    prompt = one_prompt(options.prompts)
    return draw(Prompts([replace(prompt, id=slug(prompt.prompt), origin="")]), replace(options, strict=True))
