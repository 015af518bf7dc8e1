"""Cross entropy of linear logits on the CPU; contracts are in `illume_fast.ops.linear_cross_entropy`."""

import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.kernels.cpu.rms_norm import in_rows
from illume_fast.kernels.kept_rows import kept_rows, put_back

# gradients of logits held at once, and the fewest rows of the weight in a product of them
_CHUNK = 1 << 24
_FEWEST = 256


def declines(x: Tensor, *rest: Tensor | int) -> str | None:
    return native.declines_cpu(x)  # the op's check has made the others like it


def declines_backward(grad: Tensor, x: Tensor, *rest: Tensor | int) -> str | None:
    return native.declines_cpu(x)


def forward(x: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    rows, kept, kept_labels = kept_rows(x, labels, ignore_index)
    rows = in_rows(rows)
    if len(kept_labels) and not 0 <= int(kept_labels.min()) <= int(kept_labels.max()) < len(weight):
        wrong = next(label for label in kept_labels.tolist() if not 0 <= label < len(weight))
        raise IndexError(f"linear_cross_entropy: label {wrong} is not among the {len(weight)} rows of weight")
    losses, normalizers = torch.empty(len(rows)), torch.empty(len(rows))
    weight = in_rows(weight)
    if len(rows) and not native._C.linear_cross_entropy(
        native.DTYPE_CODES[x.dtype],
        rows.data_ptr(),
        rows.stride(0),
        len(rows),
        weight.data_ptr(),
        weight.stride(0),
        kept_labels.data_ptr(),
        losses.data_ptr(),
        normalizers.data_ptr(),
        *weight.shape,
    ):
        raise MemoryError(f"linear_cross_entropy: no memory for the sums of {len(rows)} rows")
    return put_back(losses, kept, len(x)), put_back(normalizers, kept, len(x))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, labels: Tensor, normalizers: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    rows, kept, kept_labels = kept_rows(x, labels, ignore_index)
    rows = in_rows(rows)
    grad, normalizers = (t.contiguous() if kept is None else t[kept] for t in (grad, normalizers))
    weight = in_rows(weight)
    grad_rows, grad_weight = torch.zeros(rows.shape), torch.empty_like(weight)
    step = min(len(weight), max(_FEWEST, _CHUNK // max(1, len(rows))))
    memory = torch.empty(len(rows) * step, dtype=x.dtype)
    for first in range(0, len(weight), max(1, step)):
        part = weight[first : first + step]
        logits = memory[: len(rows) * len(part)].view(len(rows), len(part))
        native._C.linear_cross_entropy_logit_gradients(
            native.DTYPE_CODES[x.dtype],
            rows.data_ptr(),
            rows.stride(0),
            len(rows),
            part.data_ptr(),
            part.stride(0),
            kept_labels.data_ptr(),
            normalizers.data_ptr(),
            grad.data_ptr(),
            logits.data_ptr(),
            first,
            *part.shape,
        )
        grad_rows += logits @ part
        torch.mm(logits.T, rows, out=grad_weight[first : first + step])
    return put_back(grad_rows.to(x.dtype), kept, len(x)), grad_weight
