"""Where rows stand in their plans, on an NVIDIA GPU; contracts are in `illume_fast.ops.plan_steps`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.plan_steps import DRAW_TYPES, tables


def declines(answers: Tensor, *rest: object) -> str | None:
    return native.cuda_missing() if answers.is_cuda else "needs CUDA tensors"


def feed(
    answers: Tensor,
    draw_step: Tensor,
    drawn: Tensor,
    slot_of: Tensor,
    start: Tensor,
    filler: int,
    page_size: int,
    tokens: int,
) -> tuple[Tensor, ...]:
    outputs = *(answers.new_empty(tokens) for _ in range(3)), torch.empty_like(slot_of)
    native.launch_cuda(
        "plan_feed",
        answers,
        *tables(answers, draw_step, drawn),
        slot_of.data_ptr(),
        start.data_ptr(),
        len(slot_of),
        filler,
        page_size,
        *(out.data_ptr() for out in outputs),
        tokens,
    )
    return outputs


def draw(
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
) -> tuple[Tensor, ...]:
    settings = temperature, top_k, top_p, min_p, guidance, guidance_from, guidance_until, seed
    outputs = tuple(torch.empty_like(order, dtype=dtype) for dtype in DRAW_TYPES)
    if len(order) == 0:
        return outputs
    native.launch_cuda(
        "plan_draw",
        answers,
        *tables(answers, draw_step, drawn),
        draw_kind.data_ptr(),
        temperature.shape[1],
        *(setting.data_ptr() for setting in settings),
        order.data_ptr(),
        0 if ahead is None else ahead.data_ptr(),
        len(order),
        *(out.data_ptr() for out in outputs),
    )
    return outputs


def record(answers: Tensor, draw_step: Tensor, drawn: Tensor, order: Tensor, ids: Tensor, latest: Tensor) -> None:
    if len(order) > 0:
        at = tables(answers, draw_step, drawn)
        native.launch_cuda("plan_record", answers, *at, order.data_ptr(), ids.data_ptr(), len(order), latest.data_ptr())
