"""Weights of projections that read the same input, side by side in one storage: one product then makes all of them.

Nothing is copied twice: the parameters become views, so that names, training and saving stay as they are. Moving or
casting the model afterwards takes them apart again, and each projection is made by itself as before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from illume_fast.model.attention import SelfAttention
from illume_fast.model.layers import SwiGLU, are_plain


@torch.no_grad()
def lay_together(decoder: nn.Module) -> int:
    """Lay the weights (and biases) of queries, keys and values, and of gate and up, into one storage each.

    Layers with an adapter, a hook or quantised weights stay as they are. Takes, for a moment, the memory of one layer's
    projections more. Results may differ in the last bit from those of separate products, where the library's products
    do. Returns how many storages were made.
    """
    made = 0
    for module in decoder.modules():
        if isinstance(module, SelfAttention):
            layers = [module.q_proj, module.k_proj, module.v_proj]
        elif isinstance(module, SwiGLU):
            layers = [module.gate_proj, module.up_proj]
        else:
            continue
        if are_plain(*layers):
            made += _share([layer.weight for layer in layers])
            made += _share([layer.bias for layer in layers if layer.bias is not None])
    return made


def _share(parameters: Sequence[Tensor]) -> bool:
    kinds = {(p.dtype, p.device, p.shape[1:]) for p in parameters}
    if len(kinds) != 1 or any(p.is_meta for p in parameters):
        return False
    joined = torch.cat([p.detach() for p in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return True
