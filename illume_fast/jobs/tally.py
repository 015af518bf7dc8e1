"""How far a job is."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Pictures of a job so far: `drawn` by this run, `kept` from earlier ones, `failed`; `total` is None if unknown."""

    drawn: int = 0
    kept: int = 0
    failed: int = 0
    total: int | None = None

    @property
    def done(self) -> int:
        """Pictures that are done with."""
        return self.drawn + self.kept + self.failed


class Tally:
    """Counts what an `Observer` hears; `on_progress` gets the counts after each change."""

    def __init__(self, total: int | None, on_progress: Callable[[Progress], object] | None = None) -> None:
        self.progress = Progress(total=total)
        self._on_progress = on_progress

    def kept(self) -> None:
        """See `Observer`."""
        self.update(kept=self.progress.kept + 1)

    def drawn(self) -> None:
        """See `Observer`."""
        self.update(drawn=self.progress.drawn + 1)

    def failed(self, reason: str) -> None:
        """See `Observer`."""
        self.update(failed=self.progress.failed + 1)

    def say(self, text: str) -> None:
        """See `Observer`."""
        print(f"illume-fast: {text}", file=sys.stderr, flush=True)

    def update(self, **counts: int) -> None:
        """Set some of the counts."""
        self.progress = replace(self.progress, **counts)
        if self._on_progress is not None:
            self._on_progress(self.progress)
