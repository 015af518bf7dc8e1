"""Steps that guess ahead: each row's next draws are fed as drafts and made anew, and those that are sure are taken.

The tables are those of `illume_fast.ops.plan_steps`. A draft stands in `answers` where the draw is going to stand, and
`window` [slots] says how many draws a slot makes at once, from 1 to `width`, never beyond its plan. Everything is int64
and contiguous, and nothing of it is read on the host.

What a CPU tells of, the CUDA kernels lead to id -1, as those of `plan_steps` do: such a stream is fed at position -1,
and a slot whose window does not fit takes -1 alone, which stands in its answer's first place as well.
"""

from typing import Any

import torch
from torch import Tensor

from illume_fast.kernels.cpu import plan_ahead as cpu
from illume_fast.kernels.cpu.plan_steps import declines
from illume_fast.kernels.cuda import plan_ahead as cuda
from illume_fast.kernels.cuda.plan_steps import declines as declines_cuda
from illume_fast.ops.dispatch import Backend, declare
from illume_fast.ops.plan_steps import check_tables

NOT_TAKEN = -2


def plan_feed_ahead_reference(
    answers: Tensor,
    draw_step: Tensor,
    drawn: Tensor,
    slot_of: Tensor,
    start: Tensor,
    window: Tensor,
    width: int,
    filler: int,
    page_size: int,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`plan_feed` for draws drawn to drawn + window - 1: the tokens from the last draw up to the last of these.

    Between them stand drafts and forced ids. Returns ids, positions, streams [tokens] each and last [streams, width],
    the place of the newest token before each of these draws; behind the window, that of its end.

    Raises:
        RuntimeError: as `plan_feed`, or a window does not fit (only told on a CPU).
    """
    at, more = drawn[slot_of], torch.arange(width, device=answers.device)
    first = draw_step[slot_of, at - 1]
    ahead = torch.minimum(more, window[slot_of][:, None] - 1)
    stops = draw_step[slot_of[:, None], at[:, None] + ahead]
    lengths = stops[:, -1] - first
    ends = lengths.cumsum(0)
    place = torch.arange(tokens, device=answers.device)
    stream = torch.searchsorted(ends, place, right=True)
    used, s = stream < len(slot_of), stream.clamp(max=len(slot_of) - 1)
    step = torch.where(used, first[s] + place - (ends - lengths)[s], 0)
    ids = torch.where(used, answers[slot_of[s], step].clamp(min=0), 0)
    positions = torch.where(used, start[s] + step, (place - ends[-1]) % page_size)
    last = (ends - lengths - first)[:, None] + stops - 1
    return ids, positions, torch.where(used, s, filler), last


def plan_note_reference(made: Tensor, order: Tensor, ahead: Tensor, ids: Tensor) -> None:
    """Write ids [R] into `made` [slots, width], each at its (order, ahead). Only the last slot's may coincide.

    Raises:
        RuntimeError: there is no such place (only told on a CPU).
    """
    made[order, ahead] = ids


def plan_accept_reference(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, window: Tensor, made: Tensor
) -> None:
    """Of the draws that the slots in `order` [R] `made` [slots, width], take those that are sure.

    The first is; each other one is if the draw before it was taken, is no -1, and is what its draft said: for then it
    was made behind the right ids. `drawn` counts those taken, and `made` keeps them, with `NOT_TAKEN` in the place of
    the others. All draws stand in `answers` afterwards, so that those not taken are the next drafts; as many as were
    taken are still missing at the end, where the last draw is repeated. Nothing is done for the last slot.

    Raises:
        RuntimeError: a window does not fit (only told on a CPU).
    """
    filler, width = len(drawn) - 1, made.shape[1]
    own, at, size = (order < filler)[:, None], drawn[order][:, None], window[order][:, None]
    j = torch.arange(2 * width, device=answers.device)
    where = (at + j).clamp(max=draw_step.shape[1] - 1)
    step, before = draw_step[order[:, None], where], draw_step[order[:, None], where - 1]
    ids = made[order[:, None], torch.minimum(j, size - 1)]
    drafts = answers[order[:, None], step]
    inside = j < size
    right = torch.where(inside, (ids == drafts) & (ids >= 0), False)
    taken = inside & torch.cat([torch.ones_like(right[:, :1]), right[:, :-1]], 1).long().cumprod(1).bool()
    count = taken.sum(1, keepdim=True)
    # behind the plan's end the steps do not rise any more
    goes_on = ((step > before) & (at + j < draw_step.shape[1])).long().cumprod(1).bool()
    written = own & (inside | (goes_on & (j < size + count)))
    # what is not written goes where the filler's own id stands
    line, column = torch.where(written, order[:, None], filler), torch.where(written, step, 0)
    answers[line, column] = torch.where(written, ids, answers[filler, 0])
    kept = torch.where(taken, ids, NOT_TAKEN)[:, :width]
    made[order] = torch.where(own, kept, made[order])
    drawn.index_add_(0, order, torch.where(own, count, 0)[:, 0])


def _check_feed(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, slot_of: Tensor, start: Tensor, window: Tensor, *numbers: int
) -> None:
    check_tables("plan_feed_ahead", answers, draw_step, drawn, slot_of, start)
    check_tables("plan_feed_ahead", answers, draw_step, drawn, window)
    width, tokens = numbers[0], numbers[3]
    if len(window) != len(drawn) or width < 1:
        raise RuntimeError(f"plan_feed_ahead: {len(window)} windows of at most {width} for {len(drawn)} slots")
    if len(slot_of) == 0 or tokens < len(slot_of):
        raise RuntimeError(f"plan_feed_ahead: {tokens} tokens for {len(slot_of)} streams; each needs one at least")


def _check_made(op: str, made: Tensor) -> None:
    if made.dim() != 2 or made.dtype != torch.int64 or not made.is_contiguous() or made.shape[1] < 1:
        raise RuntimeError(f"{op}: made is {made.dtype} {tuple(made.shape)}, not contiguous int64 [slots, width]")


def _check_note(made: Tensor, order: Tensor, ahead: Tensor, ids: Tensor) -> None:
    _check_made("plan_note", made)
    for rows in (order, ahead, ids):
        if rows.dtype != torch.int64 or rows.shape != order.shape or rows.dim() != 1 or not rows.is_contiguous():
            raise RuntimeError(f"plan_note: a list is {rows.dtype} {tuple(rows.shape)}, not int64 [{len(order)}]")
        if rows.device != made.device:
            raise RuntimeError(f"plan_note: devices {made.device} and {rows.device} differ")


def _check_accept(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, window: Tensor, made: Tensor
) -> None:
    check_tables("plan_accept", answers, draw_step, drawn, order)
    check_tables("plan_accept", answers, draw_step, drawn, window)
    _check_made("plan_accept", made)
    if len(window) != len(drawn) or len(made) != len(drawn):
        raise RuntimeError(f"plan_accept: {len(window)} windows and {len(made)} lines for {len(drawn)} slots")


def _raise(op: str, what: str, bad: int) -> None:
    if bad >= 0:
        raise RuntimeError(f"{op}: {what} {bad} has no such draws left, made none yet, or its tokens do not fit")


def _feed_cpu(*args: Any) -> tuple[Tensor, ...]:
    *outputs, bad = cpu.feed(*args)
    _raise("plan_feed_ahead", "stream", bad)
    return tuple(outputs)


def _note_cpu(*args: Tensor) -> None:
    _raise("plan_note", "row", cpu.note(*args))


def _accept_cpu(*args: Tensor) -> None:
    _raise("plan_accept", "row", cpu.accept(*args))


def _fake_feed(answers: Tensor, draw_step: Tensor, drawn: Tensor, slot_of: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    width, tokens = rest[2], rest[-1]
    return *(answers.new_empty(tokens) for _ in range(3)), answers.new_empty(len(slot_of), width)


plan_feed_ahead = declare(
    "plan_feed_ahead",
    plan_feed_ahead_reference,
    Backend("cpu", _feed_cpu, declines),
    Backend("cuda", cuda.feed, declines_cuda),
    check=_check_feed,
    fake=_fake_feed,
)
plan_note = declare(
    "plan_note",
    plan_note_reference,
    Backend("cpu", _note_cpu, declines),
    Backend("cuda", cuda.note, declines_cuda),
    check=_check_note,
    fake=lambda *args: None,
    mutates=("made",),
)
plan_accept = declare(
    "plan_accept",
    plan_accept_reference,
    Backend("cpu", _accept_cpu, declines),
    Backend("cuda", cuda.accept, declines_cuda),
    check=_check_accept,
    fake=lambda *args: None,
    mutates=("answers", "drawn", "made"),
)
