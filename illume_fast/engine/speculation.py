"""Lossless speculation: a step makes several draws of each row, and keeps those that it is sure of.

Decoding one draw at a time reads all weights for every token. With few rows a step over several tokens costs little
more, so the next draws are guessed, fed as if they had been drawn, and drawn anew behind each other. Here a draw is a
function of logits, seed and step: each token of the vocabulary has its own noise there (`noise="race"` of
`cfg_sample`). So the answer is the one fixed point of drawing every position anew from the drafts before it, and this
is Jacobi iteration towards it: a draw is right if all drafts before it were, which the draws before it tell. It is then
exactly the draw that a step for it alone would have made, token for token, whatever the window. What was drawn but is
not sure becomes the next drafts, whose noise is already that of their position.

Sources: Song et al., Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving, 2021 (Jacobi
iteration); Wiggers and Hoogeboom, Predictive Sampling with Forecasting Autoregressive Models, 2020 (fixed noise makes
it exact); Teng et al., Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi
Decoding, 2025 (images; accepts by a ratio of probabilities instead, which is exact in distribution alone); Daliri,
Musco and Suresh, Coupling without Communication and Drafter-Invariant Speculative Decoding, arXiv 2408.07978 (noise
shared by token makes two draws agree nearly as often as anything can). See docs/speculation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from illume_fast.engine.batch import Batch, Rounding, laid_out
from illume_fast.engine.cache import PagedCache
from illume_fast.engine.clock import Clock
from illume_fast.engine.request import GenerativeModel
from illume_fast.engine.scheduler import Row
from illume_fast.engine.step import Buffers, Shape, draws_of
from illume_fast.engine.tables import Ints, Tables
from illume_fast.engine.transfer import Fetch
from illume_fast.engine.trials import Trials
from illume_fast.model.attention import PagedAttention
from illume_fast.ops.gather_rows import gather_rows
from illume_fast.ops.plan_ahead import NOT_TAKEN, plan_accept, plan_feed_ahead, plan_note


class Speculation:
    """How far steps guess ahead, what they need for it on the device, whether it pays, and how well it went.

    A row makes at most `width` draws in a step; a step may guess only while its streams, times `width`, are at most
    `tokens`. With `clock` it does where that is faster, which `Trials` find out for each number of rows, with and
    without guidance; without, always. `window` int64 [slots + 1] are the draws that each slot makes next, `made` int64
    [slots + 1, width] those it made, and `ahead` int64 [places] says which of its next draws a place makes. `steps`
    counts the steps that guessed, `row_steps` their rows and `accepted` the draws these kept.
    """

    def __init__(
        self, width: int, tokens: int, slots: int, places: int, device: torch.device, clock: Clock | None
    ) -> None:
        self.width, self.tokens, self.clock = width, tokens, clock
        self.window = torch.ones(slots + 1, dtype=torch.int64, device=device)
        self.made = torch.zeros(slots + 1, width, dtype=torch.int64, device=device)
        self.ahead = torch.zeros(places, dtype=torch.int64, device=device)
        self.steps = self.row_steps = self.accepted = 0
        self._trials: dict[tuple[int, int], Trials] = {}

    @property
    def accepted_per_step(self) -> float | None:
        """Draws that a row kept in a step that guessed, on average; None before the first."""
        return self.accepted / self.row_steps if self.row_steps else None

    def guesses(self, rows: int, guided: int) -> bool:
        """Whether the next step of so many rows guesses, of which so many have an unconditional stream."""
        if not self._may_guess(rows, guided):
            return False
        return self.clock is None or self._trials_of(rows, guided).guesses

    def begins(self) -> Any:
        """Now, for `ends`."""
        return None if self.clock is None else self.clock.mark()

    def ends(self, rows: int, guided: int, drawn: int, began: Any) -> None:
        """A step of these rows made so many draws since it `began`, the way that `guesses` told."""
        if self.clock is not None and self._may_guess(rows, guided):
            self._trials_of(rows, guided).add(drawn / rows, began, self.clock.mark())

    def _may_guess(self, rows: int, guided: int) -> bool:
        return (rows + guided) * self.width <= self.tokens

    def _trials_of(self, rows: int, guided: int) -> Trials:
        assert self.clock is not None
        trials = self._trials.get((rows, guided))
        if trials is None:
            trials = self._trials[rows, guided] = Trials(self.clock)
        return trials


@dataclass(frozen=True, eq=False)
class Taken:
    """What a step's rows drew for sure: how many draws each, and the last of them."""

    counts: Ints
    latest: list[int]


class Window(Batch):
    """A batch whose rows draw several tokens in a step."""

    def __init__(
        self,
        rows: Sequence[Row],
        tables: Tables,
        buffers: Buffers,
        cache: PagedCache,
        rounding: Rounding,
        speculation: Speculation,
    ) -> None:
        super().__init__(rows, tables, buffers, cache, rounding)
        self._speculation = speculation
        # what these draw may change their plan
        self._alone = np.array([bool(row.plan.inserts) for row in rows])
        self._stops = [r for r, row in enumerate(rows) if row.plan.stop_ids]
        self._sizes: Ints | None = None
        self._kinds: Ints | None = None

    def shape(self) -> Shape:
        """The shape of the next step. The buffers are made to fit it."""
        tables, slots, width = self._tables, self.slots, self._speculation.width
        drawn = tables.drawn[slots]
        sizes = np.where(self._alone, 1, np.minimum(width, tables.draws[slots] - drawn))
        ahead = np.minimum(np.arange(width), sizes[:, None] - 1)
        kinds = tables.range_of[slots[:, None], drawn[:, None] + ahead]
        resized = self._sizes is None or not np.array_equal(sizes, self._sizes)
        if resized:
            self._speculation.window[tables.on_device(slots)] = tables.on_device(sizes)
        if self._shape is None or self._kinds is None or resized or not np.array_equal(kinds, self._kinds):
            self._shape = self._laid_out_ahead(kinds, sizes)
        self._sizes, self._kinds = sizes, kinds
        lengths = tables.step_of[slots, drawn + sizes - 1] - tables.step_of[slots, drawn - 1]
        tokens = int(lengths.sum() + lengths[self._guided].sum())
        shape = self._shape
        # filled up to whole tokens a stream, so that forced ids and the plan's end make few shapes
        fillers = shape.streams - len(slots) - self.guided_rows
        each = max(width, -(-(tokens + fillers) // shape.streams))
        tokens = self._round(each * shape.streams)
        return replace(shape, tokens=tokens)

    def _laid_out_ahead(self, kinds: Ints, sizes: Ints) -> Shape:
        """Places of all draws of all rows, by what they draw from; one behind a row's window draws for nobody."""
        tables, b, width = self._tables, self._buffers, self._speculation.width
        rows, j = np.divmod(np.arange(kinds.size), width)
        outside = j >= sizes[rows]
        groups = laid_out(
            kinds.reshape(-1),
            self._guided[rows],
            tables.filtered_twice[self.slots[rows]],
            tables.legal,
            self._round,
            (
                (b.order, np.where(outside, tables.filler, self.slots[rows]), tables.filler),
                (self._speculation.ahead, np.where(outside, 0, j), 0),
                (b.conditional, rows * width + j, 0),
                (b.unconditional, self._unconditional_of[rows] * width + j, 0),
            ),
        )
        in_order = self._in_order(groups, kinds.size)
        streams = self._conditional + self._unconditional
        return Shape(self._conditional, self._unconditional, streams, True, groups, in_order, self._pages, width)

    def taken(self) -> Taken:
        """What the step just made; the host looks here once a step, and waits for it. Nothing counts behind a stop."""
        made = Fetch(self._speculation.made).ids()[self.slots]
        counts = (made != NOT_TAKEN).sum(1)
        for r in self._stops:
            stops = np.isin(made[r, : counts[r]], list(self.rows[r].plan.stop_ids))
            if stops.any():
                counts[r] = stops.argmax() + 1
        self._speculation.steps += 1
        self._speculation.row_steps += len(counts)
        self._speculation.accepted += int(counts.sum())
        return Taken(counts, made[np.arange(len(made)), counts - 1].tolist())


@torch.no_grad()
def decode_ahead(
    model: GenerativeModel,
    tables: Tables,
    buffers: Buffers,
    speculation: Speculation,
    cache: PagedCache,
    shape: Shape,
    noise: str,
) -> None:
    """Feed every stream what stands between its last draw and the end of its window, and make those draws.

    Keys and values of drafts that turn out wrong stay where they are until the next step writes over them.
    """
    streams = shape.streams
    ids, positions, stream_of, last = plan_feed_ahead(
        tables.answers,
        tables.draw_step,
        tables.drawn_there,
        buffers.slot_of[:streams],
        buffers.start[:streams],
        speculation.window,
        shape.width,
        buffers.filler,
        cache.page_size,
        shape.tokens,
    )
    attend = PagedAttention(cache.k, cache.v, buffers.page_table[:, : shape.pages], stream_of, positions)
    hidden = gather_rows(model.decoder(model.embed(ids), positions, attend), last.view(-1))
    for own, drawn in draws_of(model.head, tables, buffers, shape, hidden, noise, speculation.ahead):
        plan_note(speculation.made, buffers.order[own], speculation.ahead[own], drawn)
    order = buffers.slot_of[: shape.conditional]
    plan_accept(tables.answers, tables.draw_step, tables.drawn_there, order, speculation.window, speculation.made)
