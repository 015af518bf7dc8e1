"""From rows to the tensors of one forward pass; below this file there are only tensors.

A batch is flat: all tokens of all streams side by side, nothing padded to a common length. A step feeds each stream
the id drawn last and the forced ids behind it, so a forced id never has a step of its own. Batches are filled up to a
multiple of `row_multiple` tokens with rows that live on the cache's scratch page (see `invariance`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.cache import PagedCache
from illume_fast.engine.draws import Draws
from illume_fast.engine.request import GenerativeModel
from illume_fast.engine.scheduler import Chunk, Row
from illume_fast.model.attention import PagedAttention

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Feed:
    """One step's tokens [T]: where their ids stand in the flat answers, their positions, and how they see the cache.

    `last` picks each stream's newest token, or is None where token t is that of stream t.
    """

    source: Tensor
    positions: Tensor
    attend: PagedAttention
    last: Tensor | None


class Batch:
    """A fixed list of rows that draw together; made anew when rows join or leave.

    Streams are ordered as `Draws` expects: conditional ones in row order, then unconditional ones.
    """

    def __init__(self, rows: Sequence[Row], cache: PagedCache, width: int, row_multiple: int) -> None:
        self.rows = rows
        self.cache = cache
        self.device = cache.k.device
        self.draws = Draws(rows, row_multiple, self.device)
        self._multiple = row_multiple
        branches = [(r, b) for b in (0, 1) for r, row in enumerate(rows) if b < len(row.streams)]
        self._row = np.array([r for r, _ in branches], np.int64)
        self._start = np.array([len(rows[r].prompts[b]) - rows[r].request.plan.lead for r, b in branches], np.int64)
        self._cells = np.array([row.slot * width for row in rows], np.int64)
        filler = -len(branches) % row_multiple
        self._pages = _page_table([rows[r].pages[b] for r, b in branches], cache.scratch, max(filler, 1), self.device)
        self.stops = [r for r, row in enumerate(rows) if row.request.plan.stop_ids]

    def cells(self, step: Ints) -> Tensor:
        """Where the ids just drawn at `step` go in the flat answers, int64[R]."""
        return self._put(self._cells + step)

    def feed(self) -> Feed:
        """The tokens between the last draw and the next one, for every stream."""
        draws = self.draws
        at = draws.offset + draws.drawn
        first, stop = draws.steps[at - 1], draws.steps[at]
        count = (stop - first)[self._row]
        if count.max() == 1:
            return self._feed_one(first[self._row])
        return self._feed_runs(first[self._row], count)

    def _feed_one(self, step: Ints) -> Feed:
        streams, total = len(self._row), _round_up(len(self._row), self._multiple)
        source = np.zeros(total, np.int64)
        positions = self._filler_positions(streams, total)
        source[:streams] = self._cells[self._row] + step
        positions[:streams] = self._start + step
        return Feed(self._put(source), self._put(positions), self._attend(self._pages[:total], positions), None)

    def _feed_runs(self, step: Ints, count: Ints) -> Feed:
        streams, tokens = len(self._row), int(count.sum())
        total = _round_up(tokens, self._multiple)
        stream = np.full(total, self._pages.shape[0] - 1, np.int64)
        stream[:tokens] = np.repeat(np.arange(streams), count)
        ends = np.cumsum(count)
        source = np.zeros(total, np.int64)
        positions = self._filler_positions(tokens, total)
        run = stream[:tokens]
        step_of = step[run] + np.arange(tokens) - (ends - count)[run]
        source[:tokens] = self._cells[self._row][run] + step_of
        positions[:tokens] = self._start[run] + step_of
        # one row per token: what a token computes is then the same whether its neighbours bring one or several
        pages = self._pages.index_select(0, self._put(stream))
        return Feed(self._put(source), self._put(positions), self._attend(pages, positions), self._put(ends - 1))

    def _attend(self, pages: Tensor, positions: Ints) -> PagedAttention:
        return PagedAttention(
            self.cache.k,
            self.cache.v,
            pages,
            None,
            self._put(positions),
        )

    def _filler_positions(self, tokens: int, total: int) -> Ints:
        return _positions(tokens, total, self.cache.page_size)

    def _put(self, array: NDArray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass over chunks of prompts: embeddings [T, H], positions, how they see the cache, and each chunk's end."""

    embeds: Tensor
    positions: Tensor
    attend: PagedAttention
    last: list[int]


def read_batch(chunks: Sequence[Chunk], cache: PagedCache, model: GenerativeModel, row_multiple: int) -> Reading:
    """Lay chunks of prompts side by side."""
    device = cache.k.device
    lengths = np.array([chunk.stop - chunk.start for chunk in chunks])
    tokens = int(lengths.sum())
    total = _round_up(tokens, row_multiple)
    rows = np.full(total, len(chunks), np.int64)
    rows[:tokens] = np.repeat(np.arange(len(chunks)), lengths)
    positions = _positions(tokens, total, cache.page_size)
    positions[:tokens] = np.concatenate([np.arange(chunk.start, chunk.stop) for chunk in chunks])
    held = [np.array(cache.pool.pages(chunk.prompt.sequence), np.int32) for chunk in chunks]
    where = torch.from_numpy(positions).to(device)
    attend = PagedAttention(
        cache.k, cache.v, _page_table(held, cache.scratch, 1, device), torch.from_numpy(rows).int().to(device), where
    )
    return Reading(_embed(chunks, model, total, device), where, attend, (np.cumsum(lengths) - 1).tolist())


def _embed(chunks: Sequence[Chunk], model: GenerativeModel, total: int, device: torch.device) -> Tensor:
    ids = np.zeros(total, np.int64)
    features: list[tuple[int, Tensor]] = []
    at = 0
    for chunk in chunks:
        begin = 0
        for segment in chunk.prompt.segments:
            a, b = max(chunk.start - begin, 0), min(chunk.stop - begin, len(segment))
            begin += len(segment)
            if a >= b:
                continue
            if segment.features is None:
                ids[at : at + b - a] = segment.ids[a:b]
            else:
                features.append((at, segment.features[a:b]))
            at += b - a
    embeds = model.embed(torch.from_numpy(ids).to(device))
    for start, values in features:
        embeds[start : start + len(values)] = values.to(embeds)
    return embeds


def _page_table(held: Sequence[NDArray[np.int32]], scratch: int, filler: int, device: torch.device) -> Tensor:
    """int32 [len(held) + filler, max pages]: unused places and the filler rows name the scratch page."""
    table = np.full((len(held) + filler, max(map(len, held))), scratch, np.int32)
    for row, pages in zip(table, held, strict=False):
        row[: len(pages)] = pages
    return torch.from_numpy(table).to(device)


def _positions(tokens: int, total: int, page_size: int) -> Ints:
    """Room for `tokens` positions, then those of the filler, all on one page."""
    return np.arange(-tokens, total - tokens) % page_size


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
