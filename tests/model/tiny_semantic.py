"""Vision encoders of several families with few weights, and ILLUME's tokenizer over one of them."""

from typing import Any

from illume_fast.model.hf_encoder import encoder_config
from illume_fast.model.semantic_config import SemanticTokenizerConfig

_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "patch_size": 8}
ENCODERS: dict[str, dict[str, Any]] = {
    "siglip": {"model_type": "siglip_vision_model", "vision_use_head": False, "image_size": 64, **_VIT},
    "clip": {"model_type": "clip_vision_model", "image_size": 64, **_VIT},
    "dinov2": {"model_type": "dinov2", "image_size": 64, **_VIT},
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]},
    "qwen2_vl": {
        "model_type": "qwen2_vl_vision", "depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 48,
        "patch_size": 8,
    },
}  # fmt: skip


def tiny_tokenizer(kind: str = "siglip", image_size: int = 64, **settings: Any) -> SemanticTokenizerConfig:
    """64 codes over a tiny encoder of a family."""
    encoder = encoder_config(ENCODERS[kind], image_size)
    small = {"codebook_size": 64, "z_channels": 8, "embed_dim": 32, "num_blocks": 1, "num_heads": 2}
    return SemanticTokenizerConfig(encoder, **{**small, **settings})
