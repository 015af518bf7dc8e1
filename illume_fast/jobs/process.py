"""A worker in a process of its own: what to do comes as JSON on stdin, what happens goes as JSON lines to stdout.

Started by `supervisor`. Whoever started it holds its stdin open: when that closes, the other has died, and the worker
ends at once, as it may at any moment.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from illume_fast.data.errors import InputError
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.source import PromptFile, Source, Spool

ORPHANED = 3
_EVERY_SECONDS = 0.1
_KINDS: dict[str, Callable[[Path], Source]] = {
    "file": PromptFile,
    "edits": partial(PromptFile, need_image=True),
    "spool": Spool,
}


def kind_of(source: Source) -> tuple[str, Path]:
    """How another process reads a source: the name of its kind and its file. TypeError when it has no file."""
    if isinstance(source, PromptFile):
        return "edits" if source.need_image else "file", source.path
    if isinstance(source, Spool):
        return "spool", source.path
    raise TypeError(f"{type(source).__name__} has no file that another process could read")


class Reporter:
    """Writes running counts as `{"drawn", "kept", "failed"}`, ten times a second, and words as they come."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._counts = {"drawn": 0, "kept": 0, "failed": 0}
        self._next = 0.0

    def kept(self) -> None:
        """See `Observer`."""
        self._count("kept")

    def drawn(self) -> None:
        """See `Observer`."""
        self._count("drawn")

    def failed(self, reason: str) -> None:
        """See `Observer`."""
        self._count("failed")

    def say(self, text: str) -> None:
        """See `Observer`."""
        self.send({"say": text})

    def flush(self) -> None:
        """Write the counts as they are."""
        self.send(self._counts)

    def send(self, event: dict[str, Any]) -> None:
        """Write a line."""
        self._pipe.write(json.dumps(event).encode() + b"\n")

    def _count(self, what: str) -> None:
        self._counts[what] += 1
        if time.monotonic() >= self._next:
            self.flush()
            self._next = time.monotonic() + _EVERY_SECONDS


def main() -> int:
    """Run the worker that stdin describes; the exit code, 2 after an error that the user can mend."""
    # whatever a library prints must not get between the events
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    spec = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()

    from illume_fast.jobs.worker import run_worker
    from illume_fast.model.checkpoint import CheckpointError

    reporter = Reporter(pipe)
    source = _KINDS[spec["kind"]](Path(spec["path"]))
    config, shard = JobConfig.from_json(spec["config"]), Shard.parse(spec["shard"])
    try:
        run_worker(source.rows(), config, shard, spec["device"], reporter)
    except (InputError, CheckpointError) as error:
        reporter.flush()
        reporter.send({"error": str(error)})
        return 2
    reporter.flush()
    return 0


def _die_with_parent() -> None:
    # below Python's buffers, whose lock would be held while this waits
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
