"""Adapters that peft has laid over a model: whether there are any, and which of them act."""

import sys
from collections.abc import Hashable, Iterator
from typing import Any

from torch import nn


def has_adapters(model: nn.Module) -> bool:
    """Whether a layer of peft's is in the model."""
    return next(_layers(model), None) is not None


def state_of(model: nn.Module) -> Hashable:
    """What decides how the adapters in a model act, beside their weights: equal as long as nothing was switched."""
    return tuple(
        (
            id(layer),
            tuple(layer.active_adapters),
            layer.disable_adapters,
            tuple(layer.merged_adapters),
            tuple(sorted(getattr(layer, "scaling", {}).items())),
        )
        for layer in _layers(model)
    )


def _layers(model: nn.Module) -> Iterator[Any]:
    # without peft imported there can be none of its layers, and importing it takes seconds
    peft = sys.modules.get("peft.tuners.tuners_utils")
    if peft is not None:
        yield from (module for module in model.modules() if isinstance(module, peft.BaseTunerLayer))
