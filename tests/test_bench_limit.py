"""The limit to how long a peer of a benchmark may take until it is ready."""

import contextlib
import signal
import time

import pytest

from illume_fast.bench.engine.limit import at_most


def test_a_limit_that_is_held_back_is_told_behind_the_block():
    def held_back():
        with contextlib.suppress(TimeoutError):
            time.sleep(10)

    def changed():
        try:
            time.sleep(10)
        except TimeoutError as error:
            raise ValueError("broken") from error

    for block in (held_back, changed):
        with pytest.raises(TimeoutError, match="not ready"), at_most(0.05):
            block()


def test_an_alarm_that_was_set_before_still_goes_off():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    earlier = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(TimeoutError), at_most(0.05):
            time.sleep(10)
        with at_most(10):
            pass
        assert not rung
        time.sleep(0.5)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *earlier)
