"""Steps that guess ahead, on an NVIDIA GPU; contracts are in `illume_fast.ops.plan_ahead`."""

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
) -> tuple[Tensor, ...]:
    outputs = *(answers.new_empty(tokens) for _ in range(3)), answers.new_empty(len(slot_of), width)
    native.launch_cuda(
        "plan_feed_ahead",
        answers,
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
    return outputs


def note(made: Tensor, order: Tensor, ahead: Tensor, ids: Tensor) -> None:
    if len(order) > 0:
        pointers = (order.data_ptr(), ahead.data_ptr(), ids.data_ptr())
        native.launch_cuda("plan_note", made, made.data_ptr(), *made.shape, *pointers, len(order))


def accept(answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, window: Tensor, made: Tensor) -> None:
    if len(order) > 0:
        pointers = (order.data_ptr(), window.data_ptr(), made.data_ptr())
        at = tables(answers, draw_step, drawn)
        native.launch_cuda("plan_accept", answers, *at, *pointers, len(order), made.shape[1])
