"""How much of a run's time passes outside the kernels."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from illume_fast.kernels import native

_TIMES = 3


def outside_share(run: Callable[[Callable[[Any], None]], Any], settled: int = 0) -> float:
    """The part of a run's wall time that is not spent in native kernels, which do every matrix product on a CPU.

    `run` is called with what it must call after every step; the first `settled` steps do not count. The least of a few
    runs: others on the machine stretch what is outside more than the kernels.
    """
    return min(_share(run, settled) for _ in range(_TIMES))


def _share(run: Callable[[Callable[[Any], None]], Any], settled: int) -> float:
    with _kernel_clock() as kernels:
        marks = [(time.perf_counter(), kernels())]
        run(lambda progress: marks.append((time.perf_counter(), kernels())))
    (start, before), (end, after) = marks[settled], marks[-1]
    return 1 - (after - before) / (end - start)


@contextmanager
def _kernel_clock() -> Iterator[Callable[[], float]]:
    """Gives the seconds spent inside native kernels since the block began."""
    counter = getattr(native, "kernel_seconds", None)
    if counter is not None:
        before = counter()
        yield lambda: counter() - before
        return
    clock = _Clock(native._C)
    plain, native._C = native._C, clock
    try:
        yield lambda: clock.seconds
    finally:
        native._C = plain


class _Clock:
    """The extension, with every function called through a clock."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._extension, name)
        if not callable(value) or isinstance(value, type):
            return value

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = value(*arguments, **named)
            self.seconds += time.perf_counter() - start
            return result

        setattr(self, name, timed)
        return timed
