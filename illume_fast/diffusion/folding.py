"""Cross-attention to a context that is always zero, taken out of a UNet.

Keys and values are products with the context without a bias, so both are zero, every softmax averages zeros, and a
cross-attention returns the bias of its output projection whatever it is asked. That constant is added to the stream
right after the output of the self-attention before it: it moves into that one's bias, and the cross-attention, its
norm and all their weights go. Equal but for the rounding of one addition.
"""

from typing import Any

import torch
from torch import nn

from illume_fast.model.tensor_files import CheckpointError


@torch.no_grad()
def fold_cross_attention(unet: nn.Module) -> dict[str, str]:
    """Fold every transformer block of a UNet2DConditionModel in place; it then takes no context (None).

    Returns which bias took up which, by their names before: what a loader must add, where `unet` is on the meta device.
    CheckpointError, naming the block, where a zero context does not make a constant.
    """
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise CheckpointError("unet: projects its context (encoder_hid_proj), so a zero context is no zero any more")
    moved = {}
    for name, block in unet.named_modules():
        if getattr(block, "attn2", None) is None:
            continue
        _require_constant(name, block)
        block.attn1.to_out[0].bias += block.attn2.to_out[0].bias
        moved[f"{name}.attn1.to_out.0.bias"] = f"{name}.attn2.to_out.0.bias"
        block.attn2 = block.norm2 = None
    left = [name for name, module in unet.named_modules() if getattr(module, "is_cross_attention", False)]
    if left:
        raise CheckpointError(f"unet: cross-attention outside of transformer blocks, at {left[0]}, cannot be folded")
    return moved


def _require_constant(name: str, block: Any) -> None:
    first, second = block.attn1, block.attn2
    wrong = {
        "its norm": getattr(block, "norm_type", None) != "layer_norm",
        "attn1 that reads the context": first.is_cross_attention,
        "attn2 that reads no context": not second.is_cross_attention,
        "attn2 with biased keys or values": second.to_k.bias is not None or second.to_v.bias is not None,
        "attn2 that norms its context": second.norm_cross is not None,
        "attn2 with keys of its own": getattr(second, "add_k_proj", None) is not None,
        "attention with a residual of its own": first.residual_connection or second.residual_connection,
        "attention with a scaled output": (first.rescale_output_factor, second.rescale_output_factor) != (1, 1),
        "an output without a bias": first.to_out[0].bias is None or second.to_out[0].bias is None,
    }
    for what, there in wrong.items():
        if there:
            raise CheckpointError(f"unet: {name} has {what}, so its cross-attention cannot be folded")
