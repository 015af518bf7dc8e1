"""The vision parts of a checkpoint with few weights."""

from dataclasses import replace

from illume_fast.model.config import VisionTowerConfig
from illume_fast.model.presets import demo_tokenizer
from illume_fast.model.vision_config import (
    DualViTokConfig,
    PixelCodecConfig,
    SemanticDecoderConfig,
    SemanticEncoderConfig,
    SimVQConfig,
    ViTConfig,
)

LEVELS = (16, 24)


def tiny_vision(pixel: PixelCodecConfig) -> tuple[DualViTokConfig, VisionTowerConfig]:
    """A tokenizer with the pixel branch `pixel` and codebooks of `LEVELS`, and the tower that goes with it."""
    vit = ViTConfig(depth=1, embed_dim=16, num_heads=2, hidden_size=24, patch_size=8)
    semantic, fine = (SimVQConfig(codebook_size=size) for size in LEVELS)
    tokenizer = replace(
        demo_tokenizer(),
        semantic_quantizer=semantic,
        pixel_quantizer=fine,
        semantic_encoder=SemanticEncoderConfig(vit=vit, num_blocks=1, num_heads=2, embed_dim=16),
        semantic_decoder=SemanticDecoderConfig(num_blocks=1, num_heads=2, embed_dim=16, output_channels=24),
        pixel_encoder=pixel,
        pixel_decoder=replace(pixel, ch=64, z_channels=64, embed_dim=64),
    )
    return tokenizer, VisionTowerConfig(vit, pixel)
