"""What `generate` and `edit` share: the list of pictures wanted, and the run that makes what is missing."""

import hashlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from illume_fast.commands.options import DrawOptions
from illume_fast.commands.progress import Bar
from illume_fast.data.prompts import Prompt, parse_size

if TYPE_CHECKING:
    from illume_fast.commands.painter import Job
    from illume_fast.data.results import Ledger

SHEET_PICTURES = 400


def draw(prompts: Sequence[Prompt], options: DrawOptions) -> None:
    """Draw every picture of `prompts` that the output folder does not have yet, then its contact sheet.

    Raises:
        InputError: an option, a prompt's size or picture, the model or the folder cannot be used. What was drawn
            before stays, and the same call later goes on from there.
    """
    options.check()
    size = None if options.size is None else parse_size(options.size)
    from illume_fast.commands.painter import load_painter
    from illume_fast.data.results import Ledger

    with Ledger(options.out) as ledger, load_painter(options, options.batch_size) as painter:
        jobs = [painter.job(prompt, options, size) for prompt in prompts]
        missing = [(job, [k for k, record in enumerate(job.records) if not ledger.has(record)]) for job in jobs]
        total = sum(len(job.records) for job in jobs)
        left = sum(len(samples) for _, samples in missing)
        if left < total:
            print(f"{total - left} of {total} pictures are already in {options.out}", file=sys.stderr)
        with Bar("drawing", left) as bar:
            for record, picture in painter.draw(missing):
                ledger.add(record, picture)
                bar.advance()
        _write_sheet(jobs, ledger)
    print(f"{left} pictures in {bar.seconds:.1f} s ({bar.rate:.1f} pictures/s)")
    print(options.out / "contact_sheet.png")


def slug(text: str) -> str:
    """A file name that reminds of `text`: its letters and digits, words joined by underscores.

    At most 60 characters; where that or ASCII loses anything, a hash keeps different texts apart.
    """
    words = re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")
    if words and len(words) <= 60 and text.isascii():
        return words
    return f"{words[:50].strip('_') or 'picture'}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _write_sheet(jobs: "Sequence[Job]", ledger: "Ledger") -> None:
    from PIL import Image

    from illume_fast.data.picture import load_picture
    from illume_fast.data.sheet import contact_sheet

    tiles: list[tuple[str, list[Image.Image]]] = []
    shown = 0
    for job in jobs:
        if shown and shown + len(job.records) > SHEET_PICTURES:
            break
        pictures = [load_picture(ledger.picture_path(record)) for record in job.records[:SHEET_PICTURES]]
        shown += len(pictures)
        source = [] if job.prompt.image is None else [load_picture(job.prompt.image)]
        tiles.append((job.prompt.prompt, source + pictures))
    ledger.write_sheet(contact_sheet(tiles))
    if len(tiles) < len(jobs):
        print(f"the contact sheet shows the first {len(tiles)} of {len(jobs)} prompts", file=sys.stderr)
