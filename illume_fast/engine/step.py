"""One decoding step as the device sees it: fixed shapes, tables and ops, nothing looked at on the host.

That makes it a thing that can be recorded once and replayed (see `graphs`). Its last ops are those that write down what
was drawn; so a step that breaks off before can be made again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from illume_fast.engine.cache import PagedCache
from illume_fast.engine.plan import Ranges
from illume_fast.engine.request import GenerativeModel
from illume_fast.engine.tables import Tables
from illume_fast.model.attention import PagedAttention
from illume_fast.model.head import Head
from illume_fast.ops.cfg_head_sample import cfg_head_sample
from illume_fast.ops.gather_rows import gather_rows
from illume_fast.ops.plan_steps import plan_draw, plan_feed, plan_record


@dataclass(frozen=True)
class Group:
    """`count` rows that draw from the same ids, and so share a product with the head.

    `guided` if any of them has an unconditional branch, `twice` if any is filtered by a second chain. Those that are
    `penalized` for repetitions stand apart, since they multiply branch by branch.
    """

    ranges: Ranges
    count: int
    guided: bool
    twice: bool = False
    penalized: bool = False


@dataclass(frozen=True)
class Shape:
    """What two steps must have in common to be one recording.

    Streams are conditional ones, one for each row, then unconditional ones; both numbers and `tokens` include what
    fills the batch up. With `runs`, some stream brings several tokens. `in_order`: the rows are one group, all guided
    or none, in the order of their streams. `pages`: the columns of the page table that the step sees. Each row makes
    `width` draws, one behind the other, from as many hidden states of each of its streams.
    """

    conditional: int
    unconditional: int
    tokens: int
    runs: bool
    groups: tuple[Group, ...]
    in_order: bool
    pages: int
    width: int = 1

    @property
    def streams(self) -> int:
        return self.conditional + self.unconditional


class Buffers:
    """What a step is told of the batch, always at the same addresses.

    `slot_of` and `start` [streams]: the slot a stream draws for, and its position of the answer's step 0. `page_table`
    int32 [streams + 1, max_pages], the last row being the filler's. By group, each filled up: `order` [places] (slots),
    `conditional` and `unconditional` [places], each row's streams (their hidden states, where they have several).
    """

    def __init__(self, rows: int, places: int, max_pages: int, scratch: int, device: torch.device) -> None:
        # a GPU's attention launches blocks for every column that it is shown; a CPU's looks at those in use
        self.cuts_table = device.type == "cuda"
        self.slot_of, self.start, self.order, self.conditional, self.unconditional = (
            torch.zeros(size, dtype=torch.int64, device=device) for size in (2 * rows, 2 * rows, *(places,) * 3)
        )
        self.page_table = torch.full((2 * rows + 1, max_pages), scratch, dtype=torch.int32, device=device)
        self.filler = 2 * rows

    def columns(self, longest: int) -> int:
        """How many columns of the page table a step sees whose longest stream has so many pages."""
        most = self.page_table.shape[1]
        return min(most, 1 << (longest - 1).bit_length()) if self.cuts_table else most


@torch.no_grad()
def decode(
    model: GenerativeModel, tables: Tables, buffers: Buffers, cache: PagedCache, shape: Shape, noise: str
) -> None:
    """Feed every stream what stands between its last draw and its next, and make that draw for every row."""
    ids, positions, stream_of, last = plan_feed(
        tables.answers,
        tables.draw_step,
        tables.drawn_there,
        buffers.slot_of[: shape.streams],
        buffers.start[: shape.streams],
        buffers.filler,
        cache.page_size,
        shape.tokens,
    )
    rows = stream_of if shape.runs else None
    attend = PagedAttention(cache.k, cache.v, buffers.page_table[:, : shape.pages], rows, positions)
    hidden = model.decoder(model.embed(ids), positions, attend)
    draw(model.head, tables, buffers, shape, gather_rows(hidden, last) if shape.runs else hidden, noise)


@torch.no_grad()
def draw(head: Head, tables: Tables, buffers: Buffers, shape: Shape, hidden: Tensor, noise: str) -> None:
    """Draw for every row from hidden states [streams, H], ordered as the shape says, and write it down."""
    for own, ids in draws_of(head, tables, buffers, shape, hidden, noise):
        plan_record(tables.answers, tables.draw_step, tables.drawn_there, buffers.order[own], ids, tables.latest)


def draws_of(
    head: Head,
    tables: Tables,
    buffers: Buffers,
    shape: Shape,
    hidden: Tensor,
    noise: str,
    ahead: Tensor | None = None,
) -> list[tuple[slice, Tensor]]:
    """What the places of each group draw from hidden states [streams * width, H]; `ahead` [places] as `plan_draw`."""
    if head.prepare is not None:
        hidden = head.prepare(hidden)
    rows = sum(group.count for group in shape.groups)
    order = buffers.order[:rows]
    step, seed, guidance, temperature, top_k, top_p, min_p = plan_draw(
        tables.answers,
        tables.draw_step,
        tables.drawn_there,
        order,
        tables.draw_kind,
        tables.temperature,
        tables.top_k,
        tables.top_p,
        tables.min_p,
        tables.guidance,
        tables.guidance_from,
        tables.guidance_until,
        tables.seed,
        None if ahead is None else ahead[:rows],
    )
    drawn, end = [], 0
    for group in shape.groups:
        own = slice(end, end := end + group.count)
        conditional, unconditional = _branches(hidden, buffers, shape, group, own)
        ids = cfg_head_sample(
            conditional,
            unconditional,
            head.weight,
            group.ranges,
            guidance=guidance[own] if group.guided else 1.0,
            temperature=temperature[own],
            top_k=top_k[own],
            top_p=top_p[own],
            min_p=min_p[own],
            seed=seed[own],
            step=step[own],
            bias=head.bias,
            noise=noise,
            **_beyond_one_chain(tables, group, order[own], step[own]),
        )
        drawn.append((own, ids))
    return drawn


def _beyond_one_chain(tables: Tables, group: Group, slots: Tensor, step: Tensor) -> dict[str, Tensor]:
    """What `cfg_head_sample` is told of a group that is filtered twice, or penalised for repetitions."""
    asked: dict[str, Tensor] = {}
    if group.twice:
        for name in ("then_temperature", "then_top_k", "then_top_p"):
            asked[name] = gather_rows(getattr(tables, name), slots).view(-1)
    if group.penalized:
        asked["repetition_penalty"] = gather_rows(tables.penalty, slots).view(-1)
        # ids guessed ahead count like others: a draw is kept only where they were right
        asked |= {"seen": gather_rows(tables.answers, slots), "seen_counts": step}
    return asked


def _branches(hidden: Tensor, buffers: Buffers, shape: Shape, group: Group, own: slice) -> tuple[Tensor, Tensor | None]:
    if shape.in_order:
        first = shape.conditional * shape.width
        guided = hidden[first : first + group.count] if group.guided else None
        return hidden[: group.count], guided
    unconditional = gather_rows(hidden, buffers.unconditional[own]) if group.guided else None
    return gather_rows(hidden, buffers.conditional[own]), unconditional
