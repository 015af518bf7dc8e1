"""Sizes of a vision tokenizer as the official code's config writes them, as a `DualViTokConfig`."""

from collections.abc import Mapping
from typing import Any

from illume_fast.model.strict import ConfigError, parse
from illume_fast.model.vision_config import DualViTokConfig

# keys that must have this value where they are said, since nothing else is computed
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "semantic_encoder": {"proj_layer": "linear", "target_mlp": "norm"},
    "semantic_encoder.semantic_encoder": {"hidden_act": "quick_gelu"},
    "semantic_quantizer": {"type": "SimVQ", "channel_first": True, "rotation_trick": False},
    "semantic_decoder": {"proj_layer": "linear_norm"},
    "pixel_encoder": {"double_z": False, "use_dc_up_down_blocks": True},
    "pixel_quantizer": {"type": "SimVQ", "channel_first": True, "rotation_trick": False},
    "pixel_decoder": {"double_z": False, "use_dc_up_down_blocks": True},
}
# keys that do not change what is computed; the pixel branch repeats its quantiser's size
_IGNORED: Mapping[str, tuple[str, ...]] = {
    "semantic_encoder": ("attn_implementation", "semantic_encoder"),
    "semantic_encoder.semantic_encoder": ("model", "attn_implementation"),
    "semantic_decoder": ("attn_implementation",),
    "pixel_encoder": ("codebook_size",),
    "pixel_decoder": ("codebook_size",),
}


def tokenizer_sizes(values: Mapping[str, Any], origin: str) -> DualViTokConfig:
    """The official config, or our own form of it. ConfigError, beginning with `origin`, naming a key that is wrong."""
    encoder = values.get("semantic_encoder")
    official = isinstance(encoder, Mapping) and "semantic_encoder" in encoder
    try:
        return parse(DualViTokConfig, _ours(values) if official else values)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _ours(values: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: _part(values[key], key) if key in _FIXED else values[key] for key in values if key != "type"}
    vit = _part(values["semantic_encoder"]["semantic_encoder"], "semantic_encoder.semantic_encoder")
    return {**parts, "semantic_encoder": {**parts["semantic_encoder"], "vit": vit}}


def _part(values: Any, name: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is {values!r}; expected an object")
    fixed = _FIXED[name]
    for key in fixed.keys() & values.keys():
        if values[key] != fixed[key]:
            raise ConfigError(f"{name}.{key} is {values[key]!r}; only {fixed[key]!r} is supported here")
    return {key: value for key, value in values.items() if key not in fixed and key not in _IGNORED.get(name, ())}
