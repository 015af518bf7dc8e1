"""Adapters that peft has laid over a model: whether there are any, and which of them act."""

import sys
from collections.abc import Hashable, Iterator
from typing import Any

from torch import nn

from illume_fast.model.illume import IllumeModel


def has_adapters(model: nn.Module) -> bool:
    """Whether a layer of peft's is in the model."""
    return next(_layers(model), None) is not None


def require_plain(model: IllumeModel) -> None:
    """ValueError where an adapter lies on a weight that the engine reads by itself, and would so be left out."""
    head = model.model.embed_tokens if model.lm_head is None else model.lm_head
    read = {
        "the head": head,
        "the vision tower's first layer": model.model.vision_tower.semantic_encoder.patch_embed.proj,
    }
    for name, layer in read.items():
        if not isinstance(layer, nn.Linear | nn.Embedding | nn.Conv3d):
            raise ValueError(
                f"an adapter changes {name}, which is read without it; merge_and_unload() the adapter first"
            )


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
