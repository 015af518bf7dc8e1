"""`illume-fast edit`: change a picture, or every picture of a file, as an instruction says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from illume_fast.commands.drawing import draw, slug
from illume_fast.commands.options import DrawOptions
from illume_fast.data.errors import InputError
from illume_fast.data.prompts import FORMATS, Prompt, one_prompt, read_prompts


@dataclass(frozen=True, kw_only=True)
class Edit(DrawOptions):
    """Change a picture as an instruction says.

    Writes the same files as generate, and the source beside its edits on the contact sheet.
    """

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """A picture, or a .jsonl, .csv, .tsv or .parquet file whose rows have an image and, as prompt, an instruction."""
    instruction: Annotated[Positional[str | None], arg(metavar="INSTRUCTION")] = None
    """What to change; left out when a file says it."""


def edit(options: Edit) -> None:
    """Draw the edits that `options` asks for."""
    draw(_prompts(options), options)


def _prompts(options: Edit) -> list[Prompt]:
    if Path(options.image).suffix.lower() not in FORMATS:
        if options.instruction is None:
            raise InputError('edit needs an instruction: illume-fast edit PICTURE "make the heart green" --out DIR')
        instruction = one_prompt(options.instruction, "the instruction")
        path = Path(options.image)
        return [replace(instruction, id=slug(f"{path.stem} {instruction.prompt}"), image=path, origin="")]
    if options.instruction is not None:
        raise InputError(f"{options.image} has its own instructions; leave out {options.instruction!r}")
    prompts = read_prompts(options.image)
    for prompt in prompts:
        if prompt.image is None:
            raise InputError(f'{prompt.origin}: an edit needs an "image", the path of its picture')
    return prompts
