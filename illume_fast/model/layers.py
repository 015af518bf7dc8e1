"""Building blocks of the decoder, over the fused ops."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.ops.linear import linear
from illume_fast.ops.rms_norm import add_rms_norm, rms_norm
from illume_fast.ops.swiglu import swiglu
from illume_fast.ops.swiglu_linear import swiglu_linear


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), optionally after a residual sum."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return rms_norm(x, self.weight.to(x.dtype), self.eps)

    def after_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual), both in the residual's dtype."""
        return add_rms_norm(x.to(residual.dtype), residual, self.weight.to(residual.dtype), self.eps)


class Linear(nn.Linear):
    """`torch.nn.Linear`, by our own kernel where no gradient is wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        # a weight of another class (a quantised one) has its own product
        if runs_ops(x) and type(self.weight) is nn.Parameter:
            return linear(x, self.weight, self.bias)
        return super().forward(x)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        if runs_ops(x) and are_plain(self.gate_proj, self.up_proj):
            gate, up = self.gate_proj.weight, self.up_proj.weight
            both = joined((gate, up))
            if both is None:
                return self.down_proj(swiglu_linear(x, gate, up))
            return self.down_proj(swiglu(*linear(x, both).split(len(gate), -1)))
        x = once_in_autocast(x)
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


def runs_ops(x: Tensor) -> bool:
    """Whether to call our ops instead of torch's functions: no gradient is wanted, and autocast is off."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)


def are_plain(*layers: nn.Module) -> bool:
    """Whether nothing but a weight stands behind each layer: no adapter, no quantisation, no hook."""
    return all(
        type(layer) in (Linear, nn.Embedding)
        and type(layer.weight) is nn.Parameter
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        for layer in layers
    )


def joined(weights: Sequence[Tensor]) -> Tensor | None:
    """Weights [N, ...] that lie one behind the other in one storage (`fused.lay_together`), as one; else None."""
    if torch.compiler.is_compiling():
        return None
    first, *others = weights
    end, storage = first.data_ptr() + first.nbytes, first.untyped_storage().data_ptr()
    for weight in others:
        if weight.data_ptr() != end or weight.untyped_storage().data_ptr() != storage:
            return None
        end += weight.nbytes
    if not all(weight.is_contiguous() for weight in weights):
        return None
    return first.as_strided((sum(map(len, weights)), *first.shape[1:]), first.stride())


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`; on the CPU from 16 random bits an element, so that p is a multiple of 1 / 65536.

    torch draws 53 bits for each there, which in a small model takes a tenth of a training step.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    cut = round(p * 65536)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= cut - 32768
    return x * kept.to(x.dtype).mul_(65536 / (65536 - cut))


def once_in_autocast(x: Tensor) -> Tensor:
    """x in the dtype of autocast, where that is on: several projections of one x would each round it again."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def rotary_table(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [..., head_size / 2], of rotary positions [...] (Su et al., arXiv 2104.09864).

    Made afresh from float32 frequencies at each pass: a stored buffer would be rounded when the model is cast.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device) / head_size
    angles = positions.unsqueeze(-1).float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()
