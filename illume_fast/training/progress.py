"""Progress of a run: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Shows step, losses and speed; quiet between lines when the output is not a terminal."""

    def __init__(self, name: str, steps: int, start: int):
        self.name, self.steps, self.start = name, steps, start
        self.began = self.printed = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Bar(*columns, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.steps, completed=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar:
            self.bar.update(self.task, completed=step, description=f"{self.name} {text}")
        elif step == self.steps or time.monotonic() - self.printed > 15:
            self.printed = time.monotonic()
            left = (self.printed - self.began) / max(1, step - self.start) * (self.steps - step)
            print(f"{self.name} {step}/{self.steps} {text}; {left / 60:.1f} min left", flush=True)
