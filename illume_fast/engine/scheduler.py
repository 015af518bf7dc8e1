"""Admission: which samples are in flight, which prompts still have to be read, and what comes back when one ends.

An answer's length is known when it is admitted, so all its pages are dealt out at once: a sample that got in always
finishes, and one that cannot fit into an empty cache is refused with the numbers.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_fast.engine.cache import Prompt, PromptStore
from illume_fast.engine.plan import Plan
from illume_fast.engine.request import Request, Segment, sample_seed
from illume_fast.kernels.paging import OutOfPages


@dataclass(eq=False)
class Row:
    """One sample in flight: its branches' prompts and streams (pages as int32[.]), its place among the rows, the plan
    it follows now, and whether it has left."""

    request: Request
    sample: int
    prompts: tuple[Prompt, ...]
    streams: tuple[int, ...]
    pages: tuple[NDArray[np.int32], ...]
    copies: list[tuple[int, int]]
    slot: int
    plan: Plan
    left: bool = False

    @property
    def seed(self) -> int:
        return sample_seed(self.request.seed, self.sample)

    @property
    def is_guided(self) -> bool:
        """Whether it still has an unconditional branch."""
        return len(self.streams) == 2

    @property
    def ready(self) -> bool:
        return all(prompt.ready for prompt in self.prompts)


@dataclass(frozen=True)
class Chunk:
    """Positions [start, stop) of a prompt, to be read in one pass."""

    prompt: Prompt
    start: int
    stop: int


def branches(request: Request) -> tuple[tuple[Segment, ...], ...]:
    """What each branch reads before the first draw: its prompt, then the answer's leading forced ids."""
    lead = Segment(tuple(request.plan.forced[: request.plan.lead].tolist()))
    prompts = (request.prompt, request.unconditional or ()) if request.guided else (request.prompt,)
    return tuple((*prompt, lead) for prompt in prompts)


class Scheduler:
    """Takes samples in order, as long as rows and pages are free."""

    def __init__(self, store: PromptStore, max_rows: int) -> None:
        self.store = store
        self.cache = store.cache
        self.active: list[Row] = []
        self.waiting: list[Row] = []
        self._reading: deque[Prompt] = deque()
        self._samples: Iterator[tuple[Request, int] | None] = iter(())
        self._upcoming: tuple[Request, int] | None = None
        self._free_slots = list(reversed(range(max_rows)))

    def take_from(self, requests: Iterable[Request | None]) -> None:
        """Where samples come from; read lazily. None says that there is none now, and to ask again at the next step."""
        self._samples = _samples_of(requests)

    @property
    def in_flight(self) -> int:
        return len(self.active) + len(self.waiting)

    def upcoming(self) -> tuple[Request, int] | None:
        """The first sample that was not yet admitted or skipped, or None where there is none now."""
        if self._upcoming is None:
            self._upcoming = next(self._samples, None)
        return self._upcoming

    def skip(self) -> None:
        """Pass over the upcoming sample."""
        self._upcoming = None

    def drop(self, request: Request) -> None:
        """Pass over every sample of `request` that is not in flight."""
        while (sample := self.upcoming()) is not None and sample[0] is request:
            self.skip()

    def too_large(self, request: Request) -> str | None:
        """Why a sample of `request` does not fit into an empty cache, with the numbers, or None."""
        cache, extra, needed = self.cache, _drawn_tokens(request), 0
        lengths = [sum(map(len, segments)) for segments in branches(request)]
        for length in lengths:
            # the prompt's pages, and those of the stream that are not the prompt's
            needed += cache.pages_for(length) + cache.pages_for(length + extra) - length // cache.page_size
        if needed <= cache.capacity:
            return None
        return (
            f"a prompt of {' and '.join(map(str, lengths))} tokens and an answer of {request.plan.most_steps} need"
            f" {needed} pages of {cache.page_size} tokens, the cache has {cache.capacity}"
        )

    def admit(self) -> bool:
        """Let the upcoming sample in, unless it has to wait for a row or for pages."""
        if self._upcoming is None or not self._free_slots:
            return False
        request, sample = self._upcoming
        prompts: list[Prompt] = []
        streams: list[int] = []
        copies: list[tuple[int, int]] = []
        unread: list[Prompt] = []
        try:
            for segments in branches(request):
                prompt, fresh = self.store.acquire(segments)
                prompts.append(prompt)
                if fresh:
                    unread.append(prompt)
            for prompt in prompts:
                stream, pairs = self.store.fork(prompt, _drawn_tokens(request))
                streams.append(stream)
                copies += pairs
        except OutOfPages:
            self._give_back(prompts, streams)
            for prompt in unread:
                self.store.take_back(prompt)
            return False
        pages = tuple(np.array(self.cache.pool.pages(stream), np.int32) for stream in streams)
        slot = self._free_slots.pop()
        self.waiting.append(Row(request, sample, tuple(prompts), tuple(streams), pages, copies, slot, request.plan))
        self._reading += unread
        self.skip()
        return True

    def next_chunks(self, tokens: int) -> list[Chunk]:
        """At most `tokens` positions of prompts to read next, first come first; they count as read from now on."""
        chunks = []
        while self._reading and tokens:
            prompt = self._reading[0]
            stop = min(len(prompt), prompt.read + tokens)
            chunks.append(Chunk(prompt, prompt.read, stop))
            tokens -= stop - prompt.read
            prompt.read = stop
            if stop == len(prompt):
                self._reading.popleft()
        return chunks

    def activate(self) -> list[Row]:
        """Rows whose prompts have all been read join those that draw; the newly joined are returned."""
        joined = [row for row in self.waiting if row.ready]
        self.waiting = [row for row in self.waiting if not row.ready]
        self.cache.copy_pages([pair for row in joined for pair in row.copies])
        self.active += joined
        return joined

    def retire(self, row: Row) -> None:
        """A row leaves; its pages come back."""
        self.active.remove(row)
        self._free(row)

    def end_guidance(self, row: Row) -> None:
        """The row's unconditional branch leaves; its pages come back."""
        self._give_back(row.prompts[1:], row.streams[1:])
        row.prompts, row.streams, row.pages = row.prompts[:1], row.streams[:1], row.pages[:1]

    def abandon(self, row: Row) -> None:
        """A row leaves, whether it draws already or still waits for its prompts."""
        (self.active if row in self.active else self.waiting).remove(row)
        self._free(row)

    def close(self) -> None:
        """Give back everything, finished or not; prompts that were read stay for the next run while there is room."""
        for row in self.active + self.waiting:
            self._free(row)
        self.active, self.waiting = [], []
        self._reading.clear()
        self.store.forget_unread()

    def _free(self, row: Row) -> None:
        row.left = True
        self._give_back(row.prompts, row.streams)
        self._free_slots.append(row.slot)

    def _give_back(self, prompts: Iterable[Prompt], streams: Iterable[int]) -> None:
        for stream in streams:
            self.cache.pool.free(stream)
        for prompt in prompts:
            self.store.release(prompt)


def _samples_of(requests: Iterable[Request | None]) -> Iterator[tuple[Request, int] | None]:
    for request in requests:
        if request is None:
            yield None
        else:
            # a bad request with no samples still has to be seen once, to be refused
            yield from ((request, k) for k in range(max(request.n, 1)))


def _drawn_tokens(request: Request) -> int:
    """Answer tokens that a stream's cache holds beyond what was read with the prompt."""
    return request.plan.most_cached - request.plan.lead
