"""Builds the vision modules of a recorded case from its config.json."""

import json
from dataclasses import fields
from pathlib import Path

from safetensors.torch import load_file

from illume_fast.model.vision_config import (
    DualViTokConfig,
    PixelCodecConfig,
    SemanticDecoderConfig,
    SemanticEncoderConfig,
    SimVQConfig,
    ViTConfig,
)


def pick(cls, values: dict, **extra):
    known = {f.name for f in fields(cls)}
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
    return cls(**{**tuples, **extra})


def dual_vitok_config(official: dict) -> DualViTokConfig:
    encoder = official["semantic_encoder"]
    vit = pick(ViTConfig, encoder["semantic_encoder"])
    return DualViTokConfig(
        semantic_encoder=pick(SemanticEncoderConfig, encoder, vit=vit),
        semantic_quantizer=pick(SimVQConfig, official["semantic_quantizer"]),
        semantic_decoder=pick(SemanticDecoderConfig, official["semantic_decoder"]),
        pixel_encoder=pick(PixelCodecConfig, official["pixel_encoder"]),
        pixel_quantizer=pick(SimVQConfig, official["pixel_quantizer"]),
        pixel_decoder=pick(PixelCodecConfig, official["pixel_decoder"]),
        pixel_drop_rate=official["pixel_drop_rate"],
        pixel_drop_batch_rate=official["pixel_drop_batch_rate"],
        pixel_noise_type=official["pixel_noise_type"],
    )


def read_case(folder: Path) -> tuple[dict, dict, dict]:
    """(config, inputs, outputs) of a recorded case."""
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")


def read_weights(folder: Path) -> dict:
    return {name: tensor.float() for name, tensor in load_file(folder / "weights.safetensors").items()}
