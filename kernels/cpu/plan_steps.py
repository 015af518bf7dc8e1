"""Where rows stand in their plans, on the CPU; contracts are in `illume_fast.ops.plan_steps`."""

import torch
from torch import Tensor

from illume_fast.kernels import native

# what `plan_draw` returns: step, seed, guidance, temperature, top_k, top_p, min_p
DRAW_TYPES = (*(torch.int64,) * 2, *(torch.float32,) * 2, torch.int64, *(torch.float32,) * 2)


def declines(answers: Tensor, *rest: object) -> str | None:
    return native.missing if answers.is_cpu else "needs CPU tensors"


def feed(
    answers: Tensor,
    draw_step: Tensor,
    drawn: Tensor,
    slot_of: Tensor,
    start: Tensor,
    filler: int,
    page_size: int,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The answer, and -1 or the first stream without room or plan."""
    ids, positions, stream_of = (torch.empty(tokens, dtype=torch.int64) for _ in range(3))
    last = torch.empty(len(slot_of), dtype=torch.int64)
    outputs = ids, positions, stream_of, last
    bad = native._C.plan_feed(
        *tables(answers, draw_step, drawn),
        slot_of.data_ptr(),
        start.data_ptr(),
        len(slot_of),
        filler,
        page_size,
        *(out.data_ptr() for out in outputs),
        tokens,
    )
    return *outputs, bad


def draw(
    answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, *others: Tensor | None
) -> tuple[list[Tensor], int]:
    """The parameters of each row, and -1 or the first row without such a draw."""
    settings, ahead = [s for s in others[:-1] if s is not None], others[-1]
    kinds = settings[1].shape[1]
    outputs = [torch.empty(len(order), dtype=dtype) for dtype in DRAW_TYPES]
    bad = native._C.plan_draw(
        *tables(answers, draw_step, drawn),
        settings[0].data_ptr(),
        kinds,
        *(setting.data_ptr() for setting in settings[1:]),
        order.data_ptr(),
        0 if ahead is None else ahead.data_ptr(),
        len(order),
        *(out.data_ptr() for out in outputs),
    )
    return outputs, bad


def record(answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, ids: Tensor, latest: Tensor) -> int:
    """-1, or the first row without a next draw; those after it are not written then."""
    return native._C.plan_record(
        *tables(answers, draw_step, drawn), order.data_ptr(), ids.data_ptr(), len(order), latest.data_ptr()
    )


def tables(answers: Tensor, draw_step: Tensor, drawn: Tensor) -> tuple[int, ...]:
    """Addresses and sizes, as the kernels take them."""
    (slots, width), draws = answers.shape, draw_step.shape[1]
    return answers.data_ptr(), width, draw_step.data_ptr(), draws, drawn.data_ptr(), slots
