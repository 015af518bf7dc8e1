"""`illume-fast edit`: change a picture, or every picture of a file, as an instruction says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.drawing import draw, slug
from illume_fast.commands.options import DrawOptions
from illume_fast.data.errors import InputError
from illume_fast.data.prompt_files import FORMATS
from illume_fast.data.prompts import one_prompt
from illume_fast.jobs.source import PromptFile, Prompts


@dataclass(frozen=True, kw_only=True)
class Edit(DrawOptions):
    """Change a picture as an instruction says.

    Writes the same files as generate, and the source beside its edits on the contact sheet.
    """

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """A picture, or a .jsonl, .csv, .tsv or .parquet file.
    Its rows have an image (a path, from the file's folder) and, as prompt, an instruction; and what else rows of
    generate may have."""
    instruction: Annotated[Positional[str | None], arg(metavar="INSTRUCTION", help_behavior_hint="")] = None
    """What to change, in quotes; left out when a file says it."""


def edit(options: Edit) -> int:
    """Draw the edits that `options` asks for; the exit code."""
    if Path(options.image).suffix.lower() in FORMATS:
        if options.instruction is not None:
            raise InputError(f"{options.image} has its own instructions; leave out {options.instruction!r}")
        return draw(PromptFile(options.image, need_image=True), options)
    if options.instruction is None:
        raise InputError('edit needs an instruction: illume-fast edit PICTURE "make the heart green" --out DIR')
    instruction = one_prompt(options.instruction, "the instruction")
    path = Path(options.image)
    prompt = replace(instruction, id=slug(f"{path.stem} {instruction.prompt}"), image=path, origin="")
    return draw(Prompts([prompt]), replace(options, strict=True))
