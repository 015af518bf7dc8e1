"""One run of the engine: admit, read prompts, feed, draw, hand out.

One decoding step costs, beside the decoder, ten calls of torch (among them the embedding, a gather of the fed ids and a
write of the drawn ones) and, for each kind of draw that occurs in the batch, two gathers of hidden states and one
`cfg_head_sample`: about a tenth of a millisecond on a CPU, whatever the batch. No id is looked at on the host unless
its plan has stop ids.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from illume_fast.engine.batch import Batch, read_batch
from illume_fast.engine.cache import PagedCache
from illume_fast.engine.draws import Draws
from illume_fast.engine.request import GenerativeModel, OnStep, Progress, Request, Result
from illume_fast.engine.scheduler import Row, Scheduler


class Run:
    """The rows in flight, the batch that draws, and the answers so far."""

    def __init__(
        self, model: GenerativeModel, cache: PagedCache, max_batch: int, read_tokens: int, row_multiple: int
    ) -> None:
        self.model = model
        self.cache = cache
        self.device = cache.k.device
        self.read_tokens = read_tokens
        self.row_multiple = row_multiple
        self.scheduler = Scheduler(cache, max_batch)
        self.batch: Batch | None = None
        # a line of ids per row in flight, as long as the longest plan met so far
        self.answers = torch.zeros(max_batch, 1, dtype=torch.int64, device=self.device)
        self.steps = self.drawn = self.finished = 0

    def results(
        self, requests: Iterable[Request], refusal: Callable[[Request], str | None], on_step: OnStep | None
    ) -> Iterator[Result]:
        """Yield samples as they finish; `refusal` says why a request cannot run at all."""
        self.scheduler.take_from(requests)
        try:
            while True:
                yield from self._admit(refusal)
                if not self.scheduler.in_flight:
                    return
                results = self._step()
                if on_step is not None:
                    on_step(self._progress())
                yield from results
        finally:
            self.scheduler.close()

    def _admit(self, refusal: Callable[[Request], str | None]) -> Iterator[Result]:
        scheduler = self.scheduler
        while (upcoming := scheduler.upcoming()) is not None:
            request, sample = upcoming
            reason = refusal(request) or scheduler.too_large(request)
            if reason is not None:
                scheduler.drop(request)
                self.finished += 1
                yield Result.failed(request, sample, reason)
            elif not len(request.plan.draws):
                scheduler.skip()
                self.finished += 1
                yield Result.of(request, sample, request.plan.forced, "plan")
            elif not scheduler.admit():
                return

    @torch.no_grad()
    def _step(self) -> list[Result]:
        self._read()
        results = self._decode(self.batch) if self.batch is not None else []
        joined = self.scheduler.activate()
        if results or joined:
            if self.batch is not None:
                self.batch.draws.write_back()
            results += self._draw_first(joined)
            rows = tuple(self.scheduler.active)
            self.batch = Batch(rows, self.cache, self.answers.shape[1], self.row_multiple) if rows else None
        self.steps += 1
        self.finished += len(results)
        return results

    def _read(self) -> None:
        chunks = self.scheduler.next_chunks(self.read_tokens)
        if not chunks:
            return
        reading = read_batch(chunks, self.cache, self.model, self.row_multiple)
        hidden = self.model.decoder(reading.embeds, reading.positions, reading.attend)
        for chunk, last in zip(chunks, reading.last, strict=True):
            if chunk.stop == len(chunk.prompt):
                chunk.prompt.last_hidden = hidden[last].clone()

    def _draw_first(self, rows: Sequence[Row]) -> list[Result]:
        """Rows whose prompts were just read draw their first id from the prompts' last hidden states."""
        if not rows:
            return []
        self._lay_out(rows)
        hidden = [row.prompts[b].last_hidden for b in (0, 1) for row in rows if b < len(row.prompts)]
        draws = Draws(rows, self.row_multiple, self.device)
        ids, step = draws.draw(torch.stack([h for h in hidden if h is not None]), self.model.head)
        draws.write_back()
        cells = np.array([row.slot for row in rows]) * self.answers.shape[1] + step
        self._write(torch.from_numpy(cells).to(self.device), ids)
        # a look at every row: it costs no wait here, and tells a broken model before a whole answer was drawn
        return self._harvest(rows, draws, ids, range(len(rows)))

    def _decode(self, batch: Batch) -> list[Result]:
        feed = batch.feed()
        # a bad row's -1 must not reach the embedding; it is reported when the row is handed out
        ids = self.answers.view(-1).index_select(0, feed.source).clamp_min_(0)
        hidden = self.model.decoder(self.model.embed(ids), feed.positions, feed.attend)
        if feed.last is not None:
            hidden = hidden.index_select(0, feed.last)
        ids, step = batch.draws.draw(hidden, self.model.head)
        self._write(batch.cells(step), ids)
        return self._harvest(batch.rows, batch.draws, ids, batch.stops)

    def _write(self, cells: Tensor, ids: Tensor) -> None:
        self.answers.view(-1).index_copy_(0, cells, ids)
        self.drawn += len(ids)

    def _harvest(self, rows: Sequence[Row], draws: Draws, ids: Tensor, look: Sequence[int]) -> list[Result]:
        """Results of the rows whose plan is drawn to its end and, among those in `look`, whose last id ends them."""
        ended = dict.fromkeys(np.flatnonzero(draws.left == 0).tolist(), "plan")
        if look:
            values = ids.tolist()
            for r in look:
                if values[r] < 0:
                    ended[r] = "error"
                elif values[r] in rows[r].request.plan.stop_ids:
                    ended[r] = "stop"
        return [self._hand_out(rows[r], draws, r, finish) for r, finish in ended.items()]

    def _hand_out(self, row: Row, draws: Draws, r: int, finish: str) -> Result:
        self.scheduler.retire(row)
        request, steps = row.request, len(row.request.plan)
        length = steps if finish == "plan" else int(draws.steps[draws.offset[r] + draws.drawn[r] - 1]) + 1
        ids = self.answers[row.slot, :length].cpu().numpy()
        bad = np.flatnonzero(ids < 0)
        if len(bad):
            return Result.failed(request, row.sample, f"no finite logit at step {bad[0]} of {steps}; NaN in the model?")
        return Result.of(request, row.sample, ids, finish)

    def _lay_out(self, rows: Sequence[Row]) -> None:
        """Write the forced ids of new rows into their lines of the answers."""
        width = max(len(row.request.plan) for row in rows)
        if width > self.answers.shape[1]:
            self.answers = torch.nn.functional.pad(self.answers, (0, width - self.answers.shape[1]))
        for row in rows:
            forced = torch.from_numpy(row.request.plan.forced)
            self.answers[row.slot, : len(forced)] = forced.to(self.device)

    def _progress(self) -> Progress:
        scheduler = self.scheduler
        return Progress(self.steps, len(scheduler.active), len(scheduler.waiting), self.drawn, self.finished)
