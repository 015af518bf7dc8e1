"""Cross entropy of the logits of a linear head, which are never held whole."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import linear_cross_entropy as cpu
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.dispatch import Backend, declare

REDUCTIONS = ("mean", "sum", "none")


def _logits(x: Tensor, weight: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.to(wide) @ weight.to(wide).T


def linear_cross_entropy_reference(
    x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(losses, logarithms of the sums of exponentials), [T] in float32 or wider, 0 for ignored rows."""
    logits = _logits(x, weight)
    counts = labels != ignore_index
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return losses, torch.where(counts, logits.logsumexp(1), 0.0)


def linear_cross_entropy_backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, labels: Tensor, normalizers: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and `weight` from `grad` [T], that of the losses."""
    counts = labels != ignore_index
    shares = (_logits(x, weight) - normalizers[:, None]).exp()
    shares = shares - F.one_hot(torch.where(counts, labels, 0), len(weight)).to(shares.dtype)
    shares = torch.where(counts[:, None], shares * grad[:, None].to(shares.dtype), 0.0)
    return (shares @ weight.to(shares.dtype)).to(x.dtype), (shares.T @ x.to(shares.dtype)).to(weight.dtype)


def _check(x: Tensor, weight: Tensor, labels: Tensor, *rest: Tensor | int) -> None:
    name = "linear_cross_entropy"
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise RuntimeError(f"{name}: x and weight have shapes {shapes}, they must be [..., H] and [V, H]")
    if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
        shape = f"{labels.dtype} {tuple(labels.shape)}"
        raise RuntimeError(f"{name}: labels is {shape}, it must be int64, one for each of {x.shape[0]} rows of x")
    if not x.dtype.is_floating_point or weight.dtype != x.dtype:
        raise RuntimeError(f"{name}: x is {x.dtype} and weight {weight.dtype}, they must be one floating-point type")
    for other in (weight, labels):
        if other.device != x.device:
            raise RuntimeError(f"{name}: devices {x.device} and {other.device} differ")


def _fake(x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[0], dtype=wide), x.new_empty(x.shape[0], dtype=wide)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.ignore_index = inputs
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad: Tensor, grad_normalizers: Tensor) -> tuple[Any, ...]:
    return (*linear_cross_entropy_backward(grad, *ctx.saved_tensors, ctx.ignore_index), None, None)


linear_cross_entropy_backward = declare(
    "linear_cross_entropy_backward",
    linear_cross_entropy_backward_reference,
    Backend("cpu", cpu.backward, cpu.declines_backward),
    Backend("triton", lazily("linear_cross_entropy", "backward"), lambda grad, x, *rest: declines_triton(x)),
    check=lambda grad, *rest: _check(*rest),
    fake=lambda grad, x, weight, *rest: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
    ),
)
linear_cross_entropy_op = declare(
    "linear_cross_entropy",
    linear_cross_entropy_reference,
    Backend("cpu", cpu.forward, cpu.declines),
    Backend("triton", lazily("linear_cross_entropy", "forward"), lambda x, *rest: declines_triton(x)),
    check=_check,
    fake=_fake,
    setup_context=_save,
    backward=_backward,
)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """`F.cross_entropy(x @ weight.T, labels)` without a [T, V] buffer, forward and backward.

    `x` [..., H] hidden states, `weight` [V, H] of the same dtype (float32, bfloat16, float16; float64 on the reference
    alone), `labels` int64 [...] in [0, V) or `ignore_index`; ignored rows are dropped before the product. Logits and
    their sums are float32, offsets 64-bit. The forward pass makes the logits of a part of the vocabulary at a time and
    keeps of each row the logarithm of its sum of exponentials; the backward pass makes them again (as Cut Cross-Entropy
    does, Wijmans et al., arXiv 2411.09009, without its skipping of small gradients).

    Returns float32 (float64 of float64): the mean over rows that count (NaN if there are none), the sum, or [...] with
    0 for ignored rows.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit. IndexError: a label out of range (CPU).
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"linear_cross_entropy: unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}"
        )
    if labels.shape != x.shape[:-1]:
        shapes = f"{tuple(labels.shape)} and {tuple(x.shape)}"
        raise RuntimeError(f"linear_cross_entropy: labels and x have shapes {shapes}, they must be [...] and [..., H]")
    rows = x.reshape(labels.numel(), x.shape[-1])
    losses, _ = linear_cross_entropy_op(rows, weight, labels.reshape(-1), ignore_index)
    return _reduced(losses.view(labels.shape), labels, ignore_index, reduction)


def _reduced(losses: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (labels != ignore_index).sum()


def cross_entropy_within_ranges(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    ranges: Sequence[tuple[int, int]],
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Not the plain loss: each row's softmax is over the one of `ranges` (lo, hi) that holds its label.

    A model trained with it knows nothing of how likely a picture code is beside a word, which a decoder that is told
    the legal range at every step does not need; a product with hi - lo rows replaces one with all V. Everything else
    is as in `linear_cross_entropy`.

    Raises:
        IndexError: a label that no range holds. ValueError: ranges that overlap or do not lie in [0, V).
    """
    ordered = sorted(ranges)
    ends = [0, *(hi for _, hi in ordered)]
    if any(lo < end or hi < lo for (lo, hi), end in zip(ordered, ends, strict=False)) or ends[-1] > len(weight):
        raise ValueError(f"cross_entropy_within_ranges: {ordered} overlap or do not lie in [0, {len(weight)})")
    held = labels == ignore_index
    losses = []
    for lo, hi in ordered:
        inside = (labels >= lo) & (labels < hi) & (labels != ignore_index)
        held |= inside
        own = torch.where(inside, labels - lo, -1)
        losses.append(linear_cross_entropy(x, weight[lo:hi], own, ignore_index=-1, reduction="none"))
    if not bool(held.all()):
        wrong = int(labels[~held][0])
        raise IndexError(f"cross_entropy_within_ranges: label {wrong} lies in none of {ordered}")
    total = torch.stack(losses).sum(0) if losses else x.new_zeros(labels.shape, dtype=torch.float32)
    return _reduced(total, labels, ignore_index, reduction)
