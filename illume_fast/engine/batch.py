"""From rows to what a step needs to know: which streams there are, how many tokens they bring, which rows draw
together.

A batch is flat: all tokens of all streams side by side, nothing padded to a common length. A step feeds each stream the
id drawn last and the forced ids behind it, so a forced id never has a step of its own. Where recordings need few
shapes, or a row's bits depend on how many rows there are, batches are filled up (`Rounding`) with streams that live on
the cache's scratch page.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.cache import PagedCache
from illume_fast.engine.scheduler import Row
from illume_fast.engine.step import Buffers, Group, Shape
from illume_fast.engine.tables import Ints, Legal, Tables
from illume_fast.engine.transfer import send

Rounding = Callable[[int], int]


def filled_up(count: int, multiple: int, few_sizes: bool) -> int:
    """The size that a batch of `count` is filled up to: a multiple and, with `few_sizes`, one of eight an octave."""
    step = multiple
    while few_sizes and 8 * step < count:
        step *= 2
    return -(-count // step) * step


class Batch:
    """A fixed list of rows that draw together; made anew when rows join or leave, or a row's guidance ends."""

    def __init__(
        self, rows: Sequence[Row], tables: Tables, buffers: Buffers, cache: PagedCache, rounding: Rounding
    ) -> None:
        self.rows = rows
        self._tables, self._buffers, self._round = tables, buffers, rounding
        self.slots = np.array([row.slot for row in rows], np.int64)
        guided = np.array([row.is_guided for row in rows], bool)
        self._guided = guided
        self.guided_rows = int(guided.sum())
        self._conditional = rounding(len(rows))
        self._unconditional = rounding(self.guided_rows) if self.guided_rows else 0
        # an unguided row is its own unconditional branch: u + g * (c - u) is then exactly c
        self._unconditional_of = np.where(guided, self._conditional + np.cumsum(guided) - 1, np.arange(len(rows)))
        # rows whose next step depends on what they draw
        self.looked_at = [r for r, row in enumerate(rows) if row.plan.stop_ids or row.plan.inserts]
        self._shape: Shape | None = None
        self._groups_of: Ints | None = None
        self._fill_streams(cache)

    def _fill_streams(self, cache: PagedCache) -> None:
        streams = self._conditional + self._unconditional
        slot_of = np.full(streams, self._tables.filler, np.int64)
        start = np.zeros(streams, np.int64)
        held: dict[int, NDArray[np.int32]] = {}
        for r, row in enumerate(self.rows):
            branches = (r, int(self._unconditional_of[r])) if self._guided[r] else (r,)
            for b, s in enumerate(branches):
                slot_of[s] = row.slot
                start[s] = len(row.prompts[b]) - row.plan.lead
                held[s] = row.pages[b]
        table = np.full((streams, max(map(len, held.values()))), cache.scratch, np.int32)
        for s, pages in held.items():
            table[s, : len(pages)] = pages
        buffers = self._buffers
        for target, values in ((buffers.slot_of[:streams], slot_of), (buffers.start[:streams], start)):
            send(values, target)
        send(table, buffers.page_table[:streams, : table.shape[1]])
        self._pages = buffers.columns(table.shape[1])

    def shape(self) -> Shape:
        """The shape of the next step. The buffers are made to fit it."""
        tables, slots = self._tables, self.slots
        drawn = tables.drawn[slots]
        tokens = tables.step_of[slots, drawn] - tables.step_of[slots, drawn - 1]
        total = int(tokens.sum() + tokens[self._guided].sum())
        return self._shape_of(tables.range_of[slots, drawn], total - len(slots) - self.guided_rows)

    def first_shape(self) -> Shape:
        """The shape of the rows' first draw, from the hidden states of prompts."""
        return self._shape_of(self._tables.range_of[self.slots, 0], 0)

    def _shape_of(self, groups_of: Ints, more: int) -> Shape:
        if self._groups_of is None or not np.array_equal(groups_of, self._groups_of):
            self._shape = self._grouped(groups_of)
            self._groups_of = groups_of
        shape = self._shape
        assert shape is not None
        if not more:
            return shape
        tokens = self._round(shape.tokens + more)
        return replace(shape, tokens=tokens, runs=True)

    def _grouped(self, groups_of: Ints) -> Shape:
        b, tables = self._buffers, self._tables
        groups = laid_out(
            groups_of,
            self._guided,
            tables.filtered_twice[self.slots],
            tables.legal,
            self._round,
            (
                (b.order, self.slots, tables.filler),
                (b.conditional, np.arange(len(self.rows)), 0),
                (b.unconditional, self._unconditional_of, 0),
            ),
        )
        streams = self._conditional + self._unconditional
        in_order = self._in_order(groups, len(self.rows))
        return Shape(self._conditional, self._unconditional, streams, False, groups, in_order, self._pages)

    def _in_order(self, groups: Sequence[Group], draws: int) -> bool:
        every = self._guided.all() or not self._guided.any()
        return len(groups) == 1 and groups[0].count == draws and bool(every)

    def spread(self, conditional: Tensor, unconditional: Tensor | None) -> Tensor:
        """Hidden states of the rows' branches -> [streams, H], in the order of the streams, filled up with zeros."""
        hidden = conditional.new_zeros(self._conditional + self._unconditional, conditional.shape[1])
        hidden[: len(conditional)] = conditional
        if unconditional is not None:
            hidden[self._conditional : self._conditional + len(unconditional)] = unconditional
        return hidden


def laid_out(
    kinds: Ints,
    guided: NDArray[np.bool_],
    twice: NDArray[np.bool_],
    legal: Sequence[Legal],
    rounding: Rounding,
    targets: Sequence[tuple[Tensor, Ints, int]],
) -> tuple[Group, ...]:
    """Group draws that are made from the same ids, and write into each target its values in that order, filled up.

    `kinds` [draws] names what is legal at each draw; `guided` and `twice` [draws] say which have a second branch and a
    second chain of filters; a target is (buffer, values [draws], what fills a group up).
    """
    present = np.unique(kinds)
    members = [np.flatnonzero(kinds == kind) for kind in present]
    groups = tuple(
        Group(legal[kind][0], rounding(len(draws)), bool(guided[draws].any()), bool(twice[draws].any()), legal[kind][1])
        for kind, draws in zip(present, members, strict=True)
    )
    for buffer, values, fill in targets:
        placed = [_padded(values[draws], g.count, fill) for draws, g in zip(members, groups, strict=True)]
        line = np.concatenate(placed)
        send(line, buffer[: len(line)])
    return groups


def _padded(values: Ints, count: int, fill: int) -> Ints:
    return np.concatenate([values, np.full(count - len(values), fill, np.int64)])
