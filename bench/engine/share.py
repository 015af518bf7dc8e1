"""How much of a run's time passes outside the kernels."""

import time
from collections.abc import Callable
from typing import Any

from illume_fast.kernels.native import kernel_seconds

_TIMES = 3


def outside_share(run: Callable[[Callable[[Any], None]], Any], settled: int = 0) -> float:
    """The part of a run's wall time that is not spent in native kernels, which do every matrix product on a CPU.

    `run` is called with what it must call after every step; the first `settled` steps do not count. The least of a few
    runs: others on the machine stretch what is outside more than the kernels.
    """
    return min(_share(run, settled) for _ in range(_TIMES))


def _share(run: Callable[[Callable[[Any], None]], Any], settled: int) -> float:
    marks = [(time.perf_counter(), kernel_seconds())]
    run(lambda progress: marks.append((time.perf_counter(), kernel_seconds())))
    (start, before), (end, after) = marks[settled], marks[-1]
    return 1 - (after - before) / (end - start)
