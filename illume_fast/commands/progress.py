"""A progress bar on stderr that counts pictures per second, and stays silent where nobody watches."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """Counts `total` things (None where nobody knows how many); draws itself only on a terminal.

    Use as a context manager. `seconds` and `rate` (things per second) hold when it is left, terminal or not.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "pictures") -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._unit = unit
        self._task: TaskID = self._progress.add_task(label, total=total, rate="")
        self.total = total
        self._start = time.perf_counter()
        self._end: float | None = None
        self.done = 0

    @property
    def seconds(self) -> float:
        """Time since the bar was made, until it was left."""
        return (time.perf_counter() if self._end is None else self._end) - self._start

    @property
    def rate(self) -> float:
        """Things per second so far."""
        return self.done / max(self.seconds, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` more."""
        self.show(self.done + count, self.done + count)

    def show(self, position: int, done: int) -> None:
        """Set where the bar stands, and how many things were done to get there, which gives the rate."""
        self.done = done
        self._progress.update(self._task, completed=position, total=self.total, rate=f"{self.rate:.1f} {self._unit}/s")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end = time.perf_counter()
        self._progress.stop()
