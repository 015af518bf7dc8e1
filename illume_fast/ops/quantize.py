"""Vector quantisation once the codes are found: their values, both losses, and the gradients, without temporaries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.kernels.cpu import quantize as cpu
from illume_fast.kernels.triton import declines as declines_triton
from illume_fast.kernels.triton import lazily
from illume_fast.ops.dispatch import Backend, declare

GRADIENTS = ("straight_through", "rotation")

# of 1 + the cosine between x and its code, from where on the way from one to the other is not clear any more
_OPPOSITE = 1e-8


def quantize_reference(
    x: Tensor, codebook: Tensor, ids: Tensor, gradient: str = "straight_through"
) -> tuple[Tensor, Tensor, Tensor]:
    """(values [..., D], commitment [...], distortion [...]) of vectors `x` [..., D] whose codes are `ids` [...].

    `values` is codebook[ids], rounded to x's dtype. `commitment` and `distortion` are equal: the mean over D of
    (x - codebook[ids])^2, float32 or wider. They differ in who learns from them: the gradient of `commitment` reaches
    `x` alone and that of `distortion` the codebook alone, so that the loss of a VQ-VAE (van den Oord et al., arXiv
    1711.00937) is `distortion.mean() + beta * commitment.mean()`, and with `codebook_ema` `beta * commitment.mean()`.

    The gradient of `values` reaches `x` alone, by the rule that `gradient` names:

    - "straight_through": as it is (Bengio et al., arXiv 1308.3432);
    - "rotation": as if values = lambda R x, where the rotation R turns x to the direction of its code and lambda, the
      ratio of their lengths, scales it; both count as constants (Fifty et al., arXiv 2410.06424). Where x or its code
      is 0, or they point in opposite directions to within 1e-4, it is passed on as it is.

    `x` and `codebook` [K, D] are float32, bfloat16 or float16 each (float64 on the reference alone), `ids` int64 in
    [0, K). The codebook's gradient is the same for every number of threads.

    Raises:
        RuntimeError: an id is out of range. The Triton kernels, to save waiting for the GPU, make NaN of such a row
            instead.
    """
    codes, wide = _codes_and_x("quantize", x, codebook, ids)
    error = (codes - wide).square().sum(-1) / max(1, x.shape[-1])
    return codes.to(x.dtype), error, error.clone()


def quantize_backward_reference(
    grad: Tensor | None, error_grad: Tensor | None, x: Tensor, codebook: Tensor, ids: Tensor, gradient: str
) -> Tensor:
    """The gradient of `x` from `grad`, that of the values, and `error_grad`, that of the commitment."""
    codes, wide = (t.double() for t in _codes_and_x("quantize_backward", x, codebook, ids))
    grad_x = torch.zeros_like(wide)
    if grad is not None:
        grad_x += _turned_back(grad.double(), wide, codes) if gradient == "rotation" else grad
    if error_grad is not None:
        grad_x = grad_x + error_grad.double()[..., None] * (wide - codes) * (2 / max(1, x.shape[-1]))
    return grad_x.to(x.dtype).contiguous()


def _turned_back(grad: Tensor, x: Tensor, codes: Tensor) -> Tensor:
    """lambda R^T grad, with R = 1 - 2 r r^T + 2 q e^T for the directions e of x, q of its code and r of e + q."""

    def along(direction: Tensor) -> Tensor:
        return (grad * direction).sum(-1, keepdim=True) * direction

    length, code_length = x.norm(dim=-1, keepdim=True), codes.norm(dim=-1, keepdim=True)
    e, q = x / length, codes / code_length
    cosine = (e * q).sum(-1, keepdim=True)
    r = (e + q) / (2 + 2 * cosine).sqrt()
    turned = code_length / length * (grad - 2 * along(r) + 2 * (grad * q).sum(-1, keepdim=True) * e)
    unclear = (length == 0) | (code_length == 0) | (1 + cosine <= _OPPOSITE)
    return torch.where(unclear, grad, turned)


def quantize_codebook_gradient_reference(error_grad: Tensor, x: Tensor, codebook: Tensor, ids: Tensor) -> Tensor:
    """The gradient of `codebook` from `error_grad`, that of the distortion."""
    codes, wide = (t.double() for t in _codes_and_x("quantize_codebook_gradient", x, codebook, ids))
    size = codebook.shape[1]
    rows = error_grad.double()[..., None] * (codes - wide) * (2 / max(1, size))
    sums = torch.zeros(codebook.shape, dtype=torch.float64, device=x.device)
    return sums.index_add_(0, ids.reshape(-1), rows.reshape(ids.numel(), size)).to(codebook.dtype)


def _error_dtype(x: Tensor, codebook: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, codebook.dtype), torch.float32)


def _codes_and_x(op: str, x: Tensor, codebook: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    if ids.numel() > 0:
        low, high = (int(i) for i in torch.aminmax(ids))
        if low < 0 or high >= len(codebook):
            raise RuntimeError(f"{op}: ids must lie in [0, {len(codebook)}), got {low if low < 0 else high}")
    wide = _error_dtype(x, codebook)
    return F.embedding(ids, codebook).to(wide), x.to(wide)


def _check(op: str, x: Tensor, codebook: Tensor, ids: Tensor, gradient: str) -> None:
    if x.dim() == 0 or codebook.dim() != 2 or x.shape[-1] != codebook.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(codebook.shape)}"
        raise RuntimeError(f"{op}: x and codebook have shapes {shapes}, they must be [..., D] and [K, D]")
    if ids.shape != x.shape[:-1] or ids.dtype != torch.int64:
        given = f"{ids.dtype} {tuple(ids.shape)}"
        raise RuntimeError(f"{op}: ids is {given}, it must be int64 {tuple(x.shape[:-1])}, one for each vector of x")
    if not (x.dtype.is_floating_point and codebook.dtype.is_floating_point):
        raise RuntimeError(f"{op}: x is {x.dtype} and codebook {codebook.dtype}, they must be floating-point types")
    for other in (codebook, ids):
        if other.device != x.device:
            raise RuntimeError(f"{op}: devices {x.device} and {other.device} differ")
    if gradient not in GRADIENTS:
        raise RuntimeError(f"{op}: gradient is {gradient!r}, it must be one of {', '.join(GRADIENTS)}")


def _check_grad(op: str, name: str, grad: Tensor | None, like: Tensor, dtype: torch.dtype) -> None:
    if grad is not None and (grad.shape != like.shape or grad.dtype != dtype or grad.device != like.device):
        given = f"{grad.dtype} {tuple(grad.shape)} on {grad.device}"
        raise RuntimeError(f"{op}: {name} is {given}, it must be {dtype} {tuple(like.shape)} on {like.device}")


def _check_backward(
    grad: Tensor | None, error_grad: Tensor | None, x: Tensor, codebook: Tensor, ids: Tensor, gradient: str
) -> None:
    op = "quantize_backward"
    _check(op, x, codebook, ids, gradient)
    _check_grad(op, "grad", grad, x, x.dtype)
    _check_grad(op, "error_grad", error_grad, ids, _error_dtype(x, codebook))


def _check_codebook_gradient(error_grad: Tensor, x: Tensor, codebook: Tensor, ids: Tensor) -> None:
    op = "quantize_codebook_gradient"
    _check(op, x, codebook, ids, GRADIENTS[0])
    _check_grad(op, "error_grad", error_grad, ids, _error_dtype(x, codebook))


def _fake(x: Tensor, codebook: Tensor, ids: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    error, error_again = (x.new_empty(ids.shape, dtype=_error_dtype(x, codebook)) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.contiguous_format), error, error_again


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.gradient = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad: Tensor | None, commitment_grad: Tensor | None, distortion_grad: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, codebook, ids = ctx.saved_tensors
    grad_x = grad_codebook = None
    if ctx.needs_input_grad[0]:
        as_it_is = grad is None or ctx.gradient == "straight_through"
        if commitment_grad is None and as_it_is:
            grad_x = grad
        else:
            grad_x = quantize_backward(grad, commitment_grad, x, codebook, ids, ctx.gradient)
    if ctx.needs_input_grad[1] and distortion_grad is not None:
        grad_codebook = quantize_codebook_gradient(distortion_grad, x, codebook, ids)
    return grad_x, grad_codebook, None, None


quantize_backward = declare(
    "quantize_backward",
    quantize_backward_reference,
    Backend("cpu", cpu.backward, lambda grad, error_grad, x, codebook, *rest: cpu.declines(x, codebook)),
    Backend(
        "triton",
        lazily("quantize", "backward"),
        lambda grad, error_grad, x, codebook, *rest: declines_triton(x, codebook),
    ),
    check=_check_backward,
    fake=lambda grad, error_grad, x, *rest: torch.empty_like(x, memory_format=torch.contiguous_format),
)
quantize_codebook_gradient = declare(
    "quantize_codebook_gradient",
    quantize_codebook_gradient_reference,
    Backend("cpu", cpu.codebook_gradient, lambda error_grad, x, codebook, ids: cpu.declines(x, codebook)),
    Backend(
        "triton",
        lazily("quantize", "codebook_gradient"),
        lambda error_grad, x, codebook, ids: declines_triton(x, codebook),
    ),
    check=_check_codebook_gradient,
    fake=lambda error_grad, x, codebook, ids: torch.empty_like(codebook, memory_format=torch.contiguous_format),
)
quantize = declare(
    "quantize",
    quantize_reference,
    Backend("cpu", cpu.forward, lambda x, codebook, *rest: cpu.declines(x, codebook)),
    Backend("triton", lazily("quantize", "forward"), lambda x, codebook, *rest: declines_triton(x, codebook)),
    check=lambda x, codebook, ids, gradient: _check("quantize", x, codebook, ids, gradient),
    fake=_fake,
    setup_context=_save,
    backward=_backward,
)
