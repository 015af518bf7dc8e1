"""A limit to how long a peer may take until it is ready."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block once it has taken so many seconds, as soon as Python code runs again.

    Behind the block at the latest: a library may hold back what is raised in its midst, or make something else of it.
    For the main thread, whose alarm it borrows. An alarm that was set before goes off when it should have, or right
    after the block.
    """

    late = TimeoutError(f"it was not ready after {seconds:g} s")
    rung = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal rung
        rung = True
        raise late

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        if rung and error is not late:
            raise late from error
        raise
    else:
        if rung:
            raise late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
