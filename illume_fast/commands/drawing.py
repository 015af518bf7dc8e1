"""What `generate` and `edit` share: a job with a progress bar, and what is said at its end."""

import hashlib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from illume_fast.commands.options import DrawOptions
from illume_fast.commands.progress import Bar
from illume_fast.jobs.batch import run_job
from illume_fast.jobs.source import Source
from illume_fast.jobs.tally import Progress

if TYPE_CHECKING:
    from illume_fast.jobs.summary import Merged


def draw(source: Source, options: DrawOptions, arrange: "Callable[[Merged], object] | None" = None) -> int:
    """Draw every picture of `source` that the output folder does not have yet; the exit code, 1 if some failed.

    `arrange` is that of `run_job`.

    Raises:
        InputError: an option, the prompt file, the model or the folder cannot be used, or with `strict` a picture
            failed. What was drawn before stays, and the same call later goes on from there.
    """
    options.check()
    out = options.out
    with Bar("drawing") as bar:
        summary = run_job(source, options.job(), lambda progress: _show(bar, progress), arrange=arrange)
    if summary.kept:
        total = summary.drawn + summary.kept + summary.failed
        print(f"{summary.kept} of {total} pictures are already in {out}", file=sys.stderr)
    rate = summary.drawn / max(summary.seconds, 1e-9)
    print(f"{_pictures(summary.drawn)} in {summary.seconds:.1f} s ({rate:.1f} pictures/s)")
    if (out / "contact_sheet.png").exists():
        print(out / "contact_sheet.png")
    if not summary.failed:
        return 0
    print(
        f"illume-fast: {_pictures(summary.failed)} failed; {out / 'failures.jsonl'} says why, and the next run tries"
        " again",
        file=sys.stderr,
    )
    return 1


def slug(text: str) -> str:
    """A file name that reminds of `text`: its letters and digits, words joined by underscores.

    At most 60 characters; where that or ASCII loses anything, a hash keeps different texts apart.
    """
    words = re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")
    if words and len(words) <= 60 and text.isascii():
        return words
    return f"{words[:50].strip('_') or 'picture'}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _show(bar: Bar, progress: Progress) -> None:
    bar.total = progress.total
    bar.show(progress.done, progress.drawn)
