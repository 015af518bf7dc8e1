"""Results of the pipeline, with smaller batches when memory runs out."""

from collections.abc import Callable

from illume_fast.data.errors import InputError
from illume_fast.data.memory import out_of_memory
from illume_fast.jobs.painter import Painter
from illume_fast.jobs.work import Work
from illume_fast.pipeline import Done


def draw_all(painter: Painter, work: Work, keep: Callable[[Done], None], say: Callable[[str], None]) -> None:
    """Draw every task of `work` and give each result to `keep`.

    When memory runs out the batch is halved and what was in flight drawn again: a picture is the same in any batch.
    With a batch of one the picture at hand fails and the others go on.

    Raises:
        InputError: memory ran out twice running, with a batch of one and nothing drawn in between.
    """
    finished = -1
    while (reason := _until_memory_runs_out(painter, work, keep)) is not None:
        work.again()
        if painter.batch_size > 1:
            before = painter.batch_size
            painter.shrink()
            say(f"out of memory drawing {before} pictures at once; going on with {painter.batch_size} ({reason})")
            continue
        if work.count == finished or (key := work.first_unfinished) is None:
            raise InputError(f"out of memory drawing one picture at a time ({reason}); what was done is kept")
        work.drop(key, f"out of memory drawing it alone: {reason}")
        finished = work.count


def _until_memory_runs_out(painter: Painter, work: Work, keep: Callable[[Done], None]) -> str | None:
    """Why memory ran out, or None at the end. The error is not handed on: its frames hold what has to be freed."""
    try:
        for done in painter.pipeline.generate_stream(work):
            if done.error is not None and out_of_memory(done.error):
                raise done.error
            keep(done)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
