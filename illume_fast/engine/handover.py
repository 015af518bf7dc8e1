"""From the device to whoever asked: ids of rows that are through, parts of others, looks at those that may end soon.

On a GPU a copy is started behind the step that draws the ids and read once the next step is launched, so that the GPU
never waits for the host; on the CPU there is nothing to wait for. A slot may be used again as soon as its row has left:
what its next row writes there comes behind the copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from illume_fast.engine.request import Partial, Result
from illume_fast.engine.scheduler import Row
from illume_fast.engine.tables import Tables
from illume_fast.engine.transfer import Fetch

# a row, how many draws it had made, and what it drew last
Seen: TypeAlias = tuple[Row, int, int]


@dataclass(frozen=True)
class _Leaving:
    row: Row
    last: int  # the step of the last draw
    answer: Fetch

    def result(self) -> Result:
        plan, ids = self.row.plan, self.answer.ids()
        request, sample = self.row.request, self.row.sample
        bad = np.flatnonzero(ids < 0)
        if len(bad):
            reason = f"no finite logit at step {bad[0]} of {len(plan)}; NaN in the model?"
            return Result.failed(request, sample, reason)
        stopped = ids[self.last] in plan.stop_ids
        return Result.of(request, sample, ids[: self.last + 1] if stopped else ids, "stop" if stopped else "plan")


@dataclass(frozen=True)
class _Part:
    row: Row
    draws: int
    ids: Fetch

    def partial(self) -> Partial:
        return Partial(request=self.row.request, sample=self.row.sample, ids=torch.tensor(self.ids.ids()))


class Handover:
    """Rows that left, and parts of and looks at rows that have not; all wait here until they are asked for."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._leaving: list[_Leaving] = []
        self._parts: list[_Part] = []
        self._looks: list[tuple[Sequence[tuple[Row, int]], Fetch]] = []

    def leaves(self, row: Row, draws: int) -> Fetch:
        """The row is through after so many draws. What it drew behind them is cut off."""
        tables, plan = self._tables, row.plan
        last = int(tables.step_of[row.slot, draws - 1])
        length = len(plan) if draws == tables.draws[row.slot] else last + 1
        answer = Fetch(tables.answers[row.slot, :length])
        self._leaving.append(_Leaving(row, last, answer))
        self._parts = [part for part in self._parts if part.row is not row or part.draws < draws]
        return answer

    def part(self, row: Row, draws: int) -> None:
        """Bring what stands of the row's answer before its next draw, when it has made so many."""
        until = int(self._tables.step_of[row.slot, draws])
        self._parts.append(_Part(row, draws, Fetch(self._tables.answers[row.slot, :until])))

    def drop(self, row: Row) -> None:
        """The row has been cancelled: nobody is to hear of it any more."""
        self._parts = [part for part in self._parts if part.row is not row]

    def look(self, rows: Sequence[Row]) -> None:
        """Bring what these rows drew last."""
        if rows:
            drawn = self._tables.drawn
            self._looks.append(([(row, int(drawn[row.slot])) for row in rows], Fetch(self._tables.latest)))

    def seen(self) -> list[Seen]:
        """What was looked at since this was last asked for, without rows that have left meanwhile; waits for it."""
        looks, self._looks = self._looks, []
        return [
            (row, draws, int(latest.ids()[row.slot])) for rows, latest in looks for row, draws in rows if not row.left
        ]

    def parts(self) -> list[Partial]:
        """What was brought since this was last asked for, but whole answers; waits for it. To be asked for behind
        `seen`, which may tell that an answer is whole."""
        parts, self._parts = self._parts, []
        return [part.partial() for part in parts]

    def results(self) -> list[Result]:
        """Of the rows that have left since this was last asked for; waits for their ids."""
        leaving, self._leaving = self._leaving, []
        return [row.result() for row in leaving]
