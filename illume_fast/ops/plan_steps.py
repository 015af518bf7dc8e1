"""Where the rows of a batch stand in their plans, on the device: what a step feeds, how it draws, what it writes down.

Each row in flight has a slot, a line of every table: `answers` [slots, width] holds ids, forced ones included;
`draw_step` [slots, draws] the step of the answer at which draw d is made; `drawn` [slots] the draws made so far. The
last slot belongs to no row and fills batches up. Everything is int64 and contiguous unless said otherwise, and a step
reads nothing of it on the host.

What a CPU tells of (a slot without a next draw, tokens that do not fit), nobody hears of on a GPU, to save waiting for
it. The CUDA kernels write nothing out of bounds then and lead to id -1: `plan_feed` feeds at position -1, which the
paged ops answer with NaN, `plan_draw` gives NaN settings, and `plan_record` leaves -1 in `latest` alone.
"""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import plan_steps as cpu
from illume_fast.kernels.cuda import plan_steps as cuda
from illume_fast.ops.dispatch import Backend, declare


def plan_feed_reference(
    answers: Tensor,
    draw_step: Tensor,
    drawn: Tensor,
    slot_of: Tensor,
    start: Tensor,
    filler: int,
    page_size: int,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tokens between the last draw of each stream and its next: the id drawn last and the forced ids behind it.

    Stream s writes the answer of slot `slot_of[s]` from position `start[s]` on. Returns ids, positions, streams
    [tokens] each and last [streams], the place of each stream's newest token. An id below 0 (a bad draw) is fed as 0.
    Places left over get id 0, stream `filler` and positions below `page_size`.

    Raises:
        RuntimeError: a stream has made no draw, has none left, or its tokens do not fit (only told on a CPU).
    """
    at = drawn[slot_of]
    first, stop = draw_step[slot_of, at - 1], draw_step[slot_of, at]
    ends = (stop - first).cumsum(0)
    place = torch.arange(tokens, device=answers.device)
    stream = torch.searchsorted(ends, place, right=True)
    used, s = stream < len(slot_of), stream.clamp(max=len(slot_of) - 1)
    step = first[s] + place - (ends - stop + first)[s]
    step = torch.where(used, step, 0)
    ids = torch.where(used, answers[slot_of[s], step].clamp(min=0), 0)
    positions = torch.where(used, start[s] + step, (place - ends[-1]) % page_size)
    return ids, positions, torch.where(used, s, filler), ends - 1


def plan_draw_reference(
    answers: Tensor,
    draw_step: Tensor,
    drawn: Tensor,
    order: Tensor,
    draw_kind: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    guidance: Tensor,
    guidance_from: Tensor,
    guidance_until: Tensor,
    seed: Tensor,
    ahead: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """How a draw of each slot in `order` [R] is made: the next one, or with `ahead` [R] that many draws behind it.

    `draw_kind` [slots, draws] says which of a slot's settings [slots, kinds] a draw takes (`temperature`, `top_p`,
    `min_p` and `guidance` float32, `top_k` int64). Guidance holds from step `guidance_from` until before step
    `guidance_until` [slots], and is 1 elsewhere. Returns, one entry per row: step, seed, guidance, temperature, top_k,
    top_p, min_p.

    Raises:
        RuntimeError: a slot has no such draw (only told on a CPU).
    """
    at = drawn[order] if ahead is None else drawn[order] + ahead
    step, kind = draw_step[order, at], draw_kind[order, at]
    guided = (guidance_from[order] <= step) & (step < guidance_until[order])
    scale = torch.where(guided, guidance[order, kind], 1.0)
    t, k, p, m = (setting[order, kind] for setting in (temperature, top_k, top_p, min_p))
    return step, seed[order], scale, t, k, p, m


def plan_record_reference(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, ids: Tensor, latest: Tensor
) -> None:
    """Write the ids [R] drawn by the slots in `order` [R] into `answers` and `latest` [slots], and count the draws.

    The last slot alone may occur several times; its answer and its count stay as they are.

    Raises:
        RuntimeError: a slot has no draw left (only told on a CPU).
    """
    own = order < len(drawn) - 1
    step = draw_step[order, drawn[order]]
    # a filler writes back what stands there
    answers[order, step] = torch.where(own, ids, answers[order, step])
    latest[order] = ids
    drawn.index_add_(0, order, own.long())


def check_tables(op: str, answers: Tensor, draw_step: Tensor, drawn: Tensor, *lists: Tensor) -> None:
    """Raise unless the tables fit each other, and `lists` are equally long."""
    slots = answers.shape[0]
    if answers.dim() != 2 or draw_step.dim() != 2 or draw_step.shape[0] != slots or drawn.shape != (slots,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (answers, draw_step, drawn))
        raise RuntimeError(
            f"{op}: answers, draw_step and drawn have shapes {shapes}, not [slots, width], [slots, draws], [slots]"
        )
    for tensor in (answers, draw_step, drawn, *lists):
        if tensor.dtype != torch.int64 or not tensor.is_contiguous() or tensor.device != answers.device:
            raise RuntimeError(f"{op}: every table must be contiguous int64 on one device, got {tensor.dtype}")
    for rows in lists:
        if rows.shape != lists[0].shape or rows.dim() != 1:
            raise RuntimeError(f"{op}: lists of {tuple(lists[0].shape)} and {tuple(rows.shape)}; they must be equal")


def _check_feed(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, slot_of: Tensor, start: Tensor, *numbers: int
) -> None:
    check_tables("plan_feed", answers, draw_step, drawn, slot_of, start)
    if len(slot_of) == 0 or numbers[2] < len(slot_of):
        raise RuntimeError(f"plan_feed: {numbers[2]} tokens for {len(slot_of)} streams; each needs one at least")


def _check_draw(answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, *others: Tensor | None) -> None:
    settings, ahead = [s for s in others[:-1] if s is not None], others[-1]
    check_tables("plan_draw", answers, draw_step, drawn, order, *(() if ahead is None else (ahead,)))
    kind, *of_kind = settings[:6]
    if kind.shape != draw_step.shape or any(s.shape != of_kind[0].shape or s.dim() != 2 for s in of_kind):
        raise RuntimeError("plan_draw: draw_kind must be [slots, draws], and the sampling settings [slots, kinds]")
    wide, narrow = torch.int64, torch.float32
    dtypes = (wide, narrow, wide, narrow, narrow, narrow, wide, wide, wide)
    for setting, dtype in zip(settings, dtypes, strict=True):
        if setting.dtype != dtype or not setting.is_contiguous() or setting.shape[0] != len(drawn):
            raise RuntimeError(
                f"plan_draw: a setting is {setting.dtype} {tuple(setting.shape)}, not {dtype} with {len(drawn)} lines"
            )


def _raise(op: str, what: str, bad: int) -> None:
    if bad >= 0:
        raise RuntimeError(f"{op}: {what} {bad} has no draw left, made none yet, or its tokens do not fit")


def _feed_cpu(*args: Tensor | int) -> tuple[Tensor, ...]:
    *outputs, bad = cpu.feed(*args)
    _raise("plan_feed", "stream", bad)
    return tuple(outputs)


def _draw_cpu(*args: Tensor | None) -> tuple[Tensor, ...]:
    outputs, bad = cpu.draw(*args)
    _raise("plan_draw", "row", bad)
    return tuple(outputs)


def _record_cpu(*args: Tensor) -> None:
    _raise("plan_record", "row", cpu.record(*args))


def _fake_feed(answers: Tensor, draw_step: Tensor, drawn: Tensor, slot_of: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    tokens = rest[-1]
    return *(answers.new_empty(tokens) for _ in range(3)), torch.empty_like(slot_of)


plan_feed = declare(
    "plan_feed",
    plan_feed_reference,
    Backend("cpu", _feed_cpu, cpu.declines),
    Backend("cuda", cuda.feed, cuda.declines),
    check=_check_feed,
    fake=_fake_feed,
)
plan_draw = declare(
    "plan_draw",
    plan_draw_reference,
    Backend("cpu", _draw_cpu, cpu.declines),
    Backend("cuda", cuda.draw, cuda.declines),
    check=_check_draw,
    fake=lambda answers, draw_step, drawn, order, kind, *settings: (
        torch.empty_like(order),
        torch.empty_like(order),
        *(torch.empty_like(order, dtype=s.dtype) for s in (settings[4], *settings[:4])),
    ),
)
plan_record = declare(
    "plan_record",
    plan_record_reference,
    Backend("cpu", _record_cpu, cpu.declines),
    Backend("cuda", cuda.record, cuda.declines),
    check=lambda answers, draw_step, drawn, order, ids, latest: check_tables(
        "plan_record", answers, draw_step, drawn, order, ids
    ),
    fake=lambda *args: None,
    mutates=("answers", "drawn", "latest"),
)
