"""One run of the engine: admit, read prompts, step, hand out.

No id is looked at on the host while a step runs, unless a plan has stop ids or inserts. What the host does for a step
is to count: how many tokens the streams bring, which rows draw together, who has come to its end.

Where the device runs by itself (`Machine.lags`), what is looked at, shown and handed out comes a step late, when the
next step has been launched: a row with stop ids has drawn once more by then, which is cut off. A row that may insert a
plan is looked at at once, since its next draw depends on it; and the ids of an answer to be kept are waited for.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from illume_fast.engine import step
from illume_fast.engine.batch import Batch, Rounding
from illume_fast.engine.cache import PagedCache, PromptStore
from illume_fast.engine.graphs import Graphs
from illume_fast.engine.handover import Handover, Seen
from illume_fast.engine.reading import read_batch
from illume_fast.engine.request import GenerativeModel, OnPartial, OnStep, Progress, Request, Result
from illume_fast.engine.scheduler import Row, Scheduler
from illume_fast.engine.speculation import Speculation, Taken, Window, decode_ahead
from illume_fast.engine.tables import Ints, Tables


@dataclass(frozen=True, eq=False)
class Machine:
    """What runs share: the model, its cache and prompts, the tables and buffers of a step, and its recordings."""

    model: GenerativeModel
    cache: PagedCache
    store: PromptStore
    tables: Tables
    buffers: step.Buffers
    graphs: Graphs
    rounding: Rounding
    read_tokens: int
    row_multiple: int
    lags: bool
    noise: str
    speculation: Speculation | None


class Run:
    """The rows in flight and the batch that draws."""

    def __init__(self, machine: Machine, on_step: OnStep | None, on_partial: OnPartial | None) -> None:
        self.machine = machine
        self.scheduler = Scheduler(machine.store, machine.tables.filler)
        self.handover = Handover(machine.tables)
        self.batch: Batch | None = None
        self.steps = self.guessed = self.drawn = self.finished = 0
        self._on_step, self._on_partial = on_step, on_partial
        self._cancelled: set[str] = set()
        self._examined: Request | None = None

    def cancel(self, request_id: str) -> None:
        """Let the samples of a request go before the next step; from any thread."""
        self._cancelled.add(request_id)

    def results(self, requests: Iterable[Request | None], refusal: Callable[[Request], str | None]) -> Iterator[Result]:
        """Yield samples as they finish; `refusal` says why a request cannot run at all."""
        self.scheduler.take_from(requests)
        try:
            while True:
                yield from self._drop_cancelled()
                yield from self._admit(refusal)
                if not self.scheduler.in_flight:
                    yield from self._arrived()
                    return
                results = self._step()
                if self._on_step is not None:
                    self._on_step(self._progress())
                yield from results
        finally:
            self.scheduler.close()

    def _admit(self, refusal: Callable[[Request], str | None]) -> Iterator[Result]:
        scheduler = self.scheduler
        while (upcoming := scheduler.upcoming()) is not None:
            request, sample = upcoming
            # once a request, not at every step that it waits for room
            reason = None if request is self._examined else refusal(request) or scheduler.too_large(request)
            self._examined = request if reason is None else None
            if request.id in self._cancelled:
                scheduler.drop(request)
                self.finished += 1
                yield Result.failed(request, sample, "cancelled before it began", "cancelled")
            elif reason is not None:
                scheduler.drop(request)
                self.finished += 1
                yield Result.failed(request, sample, reason)
            elif not len(request.plan.draws):
                scheduler.skip()
                self.finished += 1
                yield Result.of(request, sample, request.plan.forced, "plan")
            elif not scheduler.admit():
                return

    def _drop_cancelled(self) -> Iterator[Result]:
        scheduler = self.scheduler
        if not self._cancelled:
            return
        for row in [r for r in scheduler.active + scheduler.waiting if r.request.id in self._cancelled]:
            if row in scheduler.active:
                self.batch = None
            scheduler.abandon(row)
            self.handover.drop(row)
            self.finished += 1
            drawn = int(self.machine.tables.drawn[row.slot]) if row.ready else 0
            reason = f"cancelled after {drawn} of {len(row.plan.draws)} draws"
            yield Result.failed(row.request, row.sample, reason, "cancelled")

    @torch.no_grad()
    def _step(self) -> list[Result]:
        self._read()
        speculation = self.machine.speculation
        began = None if speculation is None else speculation.begins()
        batch = self._decode()
        # the copies of an earlier step, while the device works at this one
        late = self._arrived()
        if batch is not None:
            before, taken = self.drawn, batch.taken() if isinstance(batch, Window) else None
            self._count(batch, batch.looked_at, taken)
            self.guessed += taken is not None
            if speculation is not None:
                speculation.ends(len(batch.rows), batch.guided_rows, self.drawn - before, began)
        joined = self.scheduler.activate()
        if joined:
            self._draw_first(joined)
            self.batch = None
        self.steps += 1
        return late if self.machine.lags else self._arrived()

    def _read(self) -> None:
        m = self.machine
        chunks = self.scheduler.next_chunks(m.read_tokens)
        if not chunks:
            return
        reading = read_batch(chunks, m.cache, m.model, m.row_multiple)
        hidden = m.model.decoder(reading.embeds, reading.positions, reading.attend)
        for chunk, last in zip(chunks, reading.last, strict=True):
            if chunk.stop == len(chunk.prompt):
                m.store.has_read(chunk.prompt, hidden[last].clone())

    def _draw_first(self, rows: Sequence[Row]) -> None:
        """Rows whose prompts were just read draw their first id from the prompts' last hidden states."""
        m = self.machine
        version = m.tables.version
        m.tables.enter(rows, [row for row in self.scheduler.active if row not in rows])
        if m.tables.version != version:
            m.graphs.forget()
        batch = self._batch_of(rows)
        conditional, unconditional = (
            [row.prompts[b].last_hidden for row in rows if b < len(row.prompts)] for b in (0, 1)
        )
        hidden = batch.spread(_stacked(conditional), _stacked(unconditional) if unconditional else None)
        step.draw(m.model.head, m.tables, m.buffers, batch.first_shape(), hidden, m.noise)
        # a look at every row tells a broken model before a whole answer was drawn
        self._count(batch, range(len(rows)))

    def _decode(self) -> Batch | None:
        """Launch a step for the rows that draw."""
        m = self.machine
        if not self.scheduler.active:
            return None
        rows = self.scheduler.active
        guesses = m.speculation is not None and m.speculation.guesses(len(rows), sum(row.is_guided for row in rows))
        if self.batch is None or isinstance(self.batch, Window) != guesses:
            self.batch = self._decoding_batch(tuple(rows), guesses)
        batch, shape = self.batch, self.batch.shape()
        if isinstance(batch, Window) and m.speculation is not None:
            guess = partial(decode_ahead, m.model, m.tables, m.buffers, m.speculation, m.cache, shape, m.noise)
            m.graphs.run(shape, guess)
        else:
            m.graphs.run(shape, partial(step.decode, m.model, m.tables, m.buffers, m.cache, shape, m.noise))
        return batch

    def _decoding_batch(self, rows: Sequence[Row], guesses: bool) -> Batch:
        m = self.machine
        if m.speculation is not None and guesses:
            return Window(rows, m.tables, m.buffers, m.cache, m.rounding, m.speculation)
        return self._batch_of(rows)

    def _batch_of(self, rows: Sequence[Row]) -> Batch:
        m = self.machine
        return Batch(rows, m.tables, m.buffers, m.cache, m.rounding)

    def _count(self, batch: Batch, look: Sequence[int], taken: Taken | None = None) -> None:
        """Note what the rows have drawn, look at those in `look`, and let those that are through leave.

        Each row has made one draw, or those that are `taken`, at which everybody has looked already.
        """
        tables, rows = self.machine.tables, batch.rows
        left = {r for r, row in enumerate(rows) if row.left}
        before = tables.drawn[batch.slots]
        drawn = before + (1 if taken is None else taken.counts)
        tables.drawn[batch.slots] = drawn
        self.drawn += int((drawn - before).sum())
        if taken is None:
            self._look([rows[r] for r in look if r not in left])
        else:
            self._act_on(zip(rows, drawn.tolist(), taken.latest, strict=True))
        through = np.flatnonzero(drawn == tables.draws[batch.slots]).tolist()
        if self._on_partial is not None:
            self._show(batch, before, drawn, left, through)
        for r in through:
            if not rows[r].left:
                self._leave(rows[r], int(drawn[r]))
        guided = tables.guided_draws[batch.slots]
        for r in np.flatnonzero((before < guided) & (guided <= drawn)).tolist():
            if not rows[r].left:
                self.scheduler.end_guidance(rows[r])
                self.batch = None

    def _look(self, rows: Sequence[Row]) -> None:
        """Look at what the rows drew last: now, or (`Machine.lags`) at the next step those that can wait."""
        lags = self.machine.lags
        now = [row for row in rows if not lags or row.plan.inserts]
        if now:
            self.handover.look(now)
            self._act_on(self.handover.seen())
        self.handover.look([row for row in rows if lags and not row.plan.inserts])

    def _act_on(self, seen: Iterable[Seen]) -> None:
        for row, draws, token in seen:
            if row.left:
                continue
            if token < 0 or token in row.plan.stop_ids:
                self._leave(row, draws)
            elif token in row.plan.inserts:
                self._insert(row, token)

    def _arrived(self) -> list[Result]:
        """Results that were on their way; act on what was looked at before, and tell of what is under way."""
        results = self.handover.results()
        self._act_on(self.handover.seen())
        if self._on_partial is not None:
            for part in self.handover.parts():
                self._on_partial(part)
        self.finished += len(results)
        return results

    def _insert(self, row: Row, token: int) -> None:
        tables = self.machine.tables
        step = int(tables.step_of[row.slot, tables.drawn[row.slot] - 1])
        row.plan = row.plan.with_insert(step, token)
        tables.splice(row)
        self.batch = None

    def _show(self, batch: Batch, before: Ints, drawn: Ints, left: Collection[int], through: Collection[int]) -> None:
        """Bring the answers of which a part is due, as far as they stand."""
        for r, row in enumerate(batch.rows):
            every = row.request.partial_every
            if not every or r in left:
                continue
            under_way = not row.left and r not in through
            for draws in range(before[r] // every * every + every, drawn[r] + under_way, every):
                self.handover.part(row, draws)

    def _leave(self, row: Row, draws: int) -> None:
        """The row is through after so many draws."""
        answer = self.handover.leaves(row, draws)
        if row.request.keep:
            self._keep(row, draws, answer.ids())
        self.scheduler.retire(row)
        self.batch = None

    def _keep(self, row: Row, draws: int, ids: Ints) -> None:
        """Leave in the cache what stands there of the answer: all before its last draw."""
        if np.any(ids < 0):
            return
        prompt, fed = row.prompts[0], int(self.machine.tables.step_of[row.slot, draws - 1])
        self.machine.store.keep(row.streams[0], prompt.atoms + tuple(ids[row.plan.lead : fed].tolist()))

    def _progress(self) -> Progress:
        scheduler = self.scheduler
        speculation = self.machine.speculation
        accepted = None if speculation is None else speculation.accepted_per_step
        return Progress(
            step=self.steps,
            active=len(scheduler.active),
            waiting=len(scheduler.waiting),
            drawn=self.drawn,
            finished=self.finished,
            accepted=accepted,
            guessed=self.guessed,
        )


def _stacked(hidden: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([h for h in hidden if h is not None])
