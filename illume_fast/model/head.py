"""The last step from a hidden state to scores of ids."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """Logits are `prepare(hidden) @ weight.T + bias`: `weight` [V, W], `bias` [V] or None.

    `prepare` maps hidden states [R, H] to [R, W] (None: they are used as they are). Only what follows it is linear, so
    guidance mixes its results. It must be made of ops of `illume_fast.ops` to be part of a recorded step.
    """

    weight: Tensor
    bias: Tensor | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
