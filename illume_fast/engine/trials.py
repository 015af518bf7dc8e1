"""Whether guessing pays, found out by trying it now and then."""

import math
from collections import deque
from statistics import fmean, median
from typing import Any

from illume_fast.engine.clock import Clock

TRIAL = 8  # steps
LONGEST = 64 * TRIAL
# the first two steps are not measured: the batch is made anew, and drafts are out of date
_MEASURED = TRIAL - 2


class Trials:
    """Which way to step draws faster: one draw a row, or several of which some are guessed (`guesses`).

    Guessing pays if a step that guesses keeps more draws a row than it takes times as long. Steps go the better way for
    a while, then the other way for a trial of 8, and the trial's median step is compared with that of the steps right
    before it. So it hardly matters how busy the machine is, nor that a step waited or was none that is replayed. What
    counts is the median of the last five comparisons, beside the draws that the last 32 steps kept that guessed.

    After a comparison that confirms what was held to be better, the next one comes twice as late, up to 512 steps;
    after any other, four times as soon. While nothing changes, one of 65 steps goes the worse way in the long run. A
    change is noticed within 520 steps, and followed a few comparisons later.
    """

    def __init__(self, clock: Clock) -> None:
        self.guesses = False
        self._clock = clock
        self._trying = False
        self._rest = self._length = TRIAL
        self._made = 0
        self._stretch: deque[tuple[Any, Any]] = deque(maxlen=_MEASURED)
        self._seconds = {False: 0.0, True: 0.0}
        self._costs: deque[float] = deque(maxlen=5)
        self._kept: deque[float] = deque(maxlen=32)

    def add(self, kept: float, began: Any, ended: Any) -> None:
        """A step went the way of `guesses`: the draws it kept a row, and the clock's marks around it."""
        self._made += 1
        self._stretch.append((began, ended))
        if self.guesses and self._made > TRIAL - _MEASURED:
            self._kept.append(kept)
        if self._made == self._length:
            self._seconds[self.guesses] = median(self._clock.seconds(*marks) for marks in self._stretch)
            self._turn()

    def _turn(self) -> None:
        self._made = 0
        self._trying = not self._trying
        if self._trying:
            self.guesses, self._length = not self.guesses, TRIAL
        else:
            self._compare()

    def _compare(self) -> None:
        """The trial is over; which way the next steps go, and for how long."""
        held = not self.guesses
        # a clock too coarse for such steps says 0
        cost = self._seconds[True] / self._seconds[False] if all(self._seconds.values()) else math.inf
        self._costs.append(cost)
        self.guesses = fmean(self._kept) > median(self._costs)
        confirmed = held == self.guesses == (fmean(list(self._kept)[-_MEASURED:]) > cost)
        self._rest = self._length = min(2 * self._rest, LONGEST) if confirmed else max(self._rest // 4, TRIAL)
