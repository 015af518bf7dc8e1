"""Where every row in flight stands in its plan: lines of tables on the device, and what of them the host knows too.

A step gathers from the tables (`illume_fast.ops.plan_steps`); the host follows along by counting, without looking.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.plan import Ranges
from illume_fast.engine.sampling import SecondChain
from illume_fast.engine.scheduler import Row
from illume_fast.engine.transfer import sent

Ints = NDArray[np.int64]
# what a draw is made from, and whether ids that the answer holds already are penalised
Legal: TypeAlias = tuple[Ranges, bool]
_FOREVER = 2**62


class Tables:
    """A line for each of `slots` rows, and a last one that fills batches up: it feeds id 0 and draws for nobody."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.filler = slots
        self.device = device
        self.version = 0
        self.legal: list[Legal] = []
        self._legal_ids: dict[Legal, int] = {}
        # slots whose draws are filtered twice; filled up, such a batch has lines where that does nothing
        self.filtered_twice = np.zeros(slots + 1, bool)
        self.drawn = np.zeros(slots + 1, np.int64)
        self.draws = np.zeros(slots + 1, np.int64)
        self.guided_draws = np.zeros(slots + 1, np.int64)
        self._make(width=2, draws=2, kinds=1)

    def _make(self, width: int, draws: int, kinds: int) -> None:
        """New tables; whatever holds the address of an old one is out of date, which `version` shows."""
        lines, wide, narrow = self.filler + 1, torch.int64, torch.float32

        def zeros(*size: int, dtype: torch.dtype = wide) -> Tensor:
            return torch.zeros(*size, dtype=dtype, device=self.device)

        self.version += 1
        self.width, self.most_draws, self.kinds = width, draws, kinds
        self.answers, self.latest = zeros(lines, width), zeros(lines)
        self.draw_step, self.draw_kind = zeros(lines, draws), zeros(lines, draws)
        self.drawn_there, self.seed = zeros(lines), zeros(lines)
        self.temperature, self.top_p, self.min_p, self.guidance = (zeros(lines, kinds, dtype=narrow) for _ in range(4))
        self.top_k = zeros(lines, kinds)
        self.guidance_from, self.guidance_until = zeros(lines), zeros(lines)
        self.then_temperature, self.then_top_p, self.penalty = (
            zeros(lines, 1, dtype=narrow).fill_(1) for _ in range(3)
        )
        self.then_top_k = zeros(lines, 1)
        self.step_of = np.zeros((lines, draws), np.int64)
        self.range_of = np.zeros((lines, draws), np.int64)
        # the filler has always made its first draw, at step 0, and stands before its second
        self.drawn[self.filler] = 1
        self.drawn_there[self.filler] = 1
        self.seed[self.filler] = -1
        self.draw_step[self.filler, 1:] = 1
        self.step_of[self.filler, 1:] = 1

    def enter(self, rows: Sequence[Row], in_flight: Sequence[Row]) -> None:
        """Give each of `rows` its line; those `in_flight` keep theirs, also where the tables have to grow."""
        width = max(row.plan.most_steps for row in rows)
        draws = max(row.plan.most_draws for row in rows) + 1
        kinds = max(len(row.request.sampling.sets) for row in rows)
        if width > self.width or draws > self.most_draws or kinds > self.kinds:
            answers, drawn = self.answers, self.drawn_there
            self._make(_grown(width, self.width), _grown(draws, self.most_draws), _grown(kinds, self.kinds))
            if in_flight:
                self._write(in_flight)
                slots = self.on_device(np.array([row.slot for row in in_flight]))
                self.answers[slots, : answers.shape[1]] = answers[slots]
                self.drawn_there[slots] = drawn[slots]
        self._write(rows)
        fresh = np.array([row.slot for row in rows])
        self.drawn[fresh] = 0
        self.drawn_there[self.on_device(fresh)] = 0

    def _write(self, rows: Sequence[Row]) -> None:
        count = len(rows)
        answers, steps, kinds, ranges = (
            np.zeros((count, size), np.int64) for size in (self.width, *(self.most_draws,) * 3)
        )
        settings = np.ones((4, count, self.kinds), np.float32)
        top_k = np.zeros((count, self.kinds), np.int64)
        for i, row in enumerate(rows):
            plan, sampling = row.plan, row.request.sampling
            number = len(plan.draws)
            answers[i, : len(plan)] = plan.forced
            steps[i, :number] = plan.draws
            sites = plan.site[plan.draws]
            kinds[i, :number] = np.array([site.set for site in plan.sites], np.int64)[sites]
            penalized = sampling.repetition_penalty != 1
            legal = [self._legal_id((site.ranges, penalized)) for site in plan.sites]
            ranges[i, :number] = np.array(legal, np.int64)[sites]
            self.filtered_twice[row.slot] = sampling.then is not None
            for k, s in enumerate(sampling.sets):
                settings[:, i, k] = s.temperature, s.top_p, s.min_p, sampling.guidance_of(s)
                top_k[i, k] = s.top_k
            self.draws[row.slot] = number
            # never met where guidance lasts, or never was
            self.guided_draws[row.slot] = sampling.guided_draws(plan.draws) if row.is_guided else 0
        slots = np.array([row.slot for row in rows])
        self.step_of[slots], self.range_of[slots] = steps, ranges
        at = self.on_device(slots)
        sampling_of = [row.request.sampling for row in rows]
        then = [s.then or SecondChain() for s in sampling_of]
        for table, values in (
            (self.answers, answers),
            (self.draw_step, steps),
            (self.draw_kind, kinds),
            (self.temperature, settings[0]),
            (self.top_p, settings[1]),
            (self.min_p, settings[2]),
            (self.top_k, top_k),
            (self.seed, np.array([row.seed for row in rows])),
            (self.guidance, settings[3]),
            (self.guidance_from, np.array([s.guidance_from for s in sampling_of])),
            (self.guidance_until, np.array([_until(s.guidance_until) for s in sampling_of])),
            (self.then_temperature, np.array([[t.temperature] for t in then], np.float32)),
            (self.then_top_k, np.array([[t.top_k] for t in then])),
            (self.then_top_p, np.array([[t.top_p] for t in then], np.float32)),
            (self.penalty, np.array([[s.repetition_penalty] for s in sampling_of], np.float32)),
        ):
            table.index_copy_(0, at, self.on_device(values))

    def splice(self, row: Row) -> None:
        """The rest of the row's plan has become another one; what it has drawn stays."""
        slot, answered = row.slot, int(self.step_of[row.slot, self.drawn[row.slot] - 1]) + 1
        kept = self.answers[slot, :answered].clone()
        self._write([row])
        self.answers[slot, :answered] = kept

    def _legal_id(self, legal: Legal) -> int:
        if legal not in self._legal_ids:
            self._legal_ids[legal] = len(self.legal)
            self.legal.append(legal)
        return self._legal_ids[legal]

    def on_device(self, array: NDArray) -> Tensor:
        """A copy of `array` where the tables stand."""
        return sent(array, self.device)


def _grown(needed: int, had: int) -> int:
    return had if needed <= had else max(needed, 2 * had)


def _until(step: int | None) -> int:
    return _FOREVER if step is None else step
