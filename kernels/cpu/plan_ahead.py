"""Steps that guess ahead, on the CPU; contracts are in `illume_fast.ops.plan_ahead`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.plan_steps import tables


def feed(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The answer, and -1 or the first stream without room or plan."""
    ids, positions, stream_of = (torch.empty(tokens, dtype=torch.int64) for _ in range(3))
    last = torch.empty(len(slot_of), width, dtype=torch.int64)
    outputs = ids, positions, stream_of, last
    bad = native._C.plan_feed_ahead(
        *tables(answers, draw_step, drawn),
        slot_of.data_ptr(),
        start.data_ptr(),
        window.data_ptr(),
        len(slot_of),
        width,
        filler,
        page_size,
        *(out.data_ptr() for out in outputs),
        tokens,
    )
    return *outputs, bad


def note(made: Tensor, order: Tensor, ahead: Tensor, ids: Tensor) -> int:
    """-1, or the first id without a place."""
    pointers = (order.data_ptr(), ahead.data_ptr(), ids.data_ptr())
    return native._C.plan_note(made.data_ptr(), *made.shape, *pointers, len(ids))


def accept(answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, window: Tensor, made: Tensor) -> int:
    """-1, or the first row whose window does not fit; those after it are not written then."""
    return native._C.plan_accept(
        *tables(answers, draw_step, drawn),
        order.data_ptr(),
        window.data_ptr(),
        made.data_ptr(),
        len(order),
        made.shape[1],
    )
