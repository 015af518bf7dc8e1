"""Builds the tiny recorded ILLUME+ model."""

from pathlib import Path

import torch
from golden_vision import pick, read_case, read_weights
from torch import Tensor

from illume_fast.model.config import DecoderConfig, IllumeModelConfig, ProjectorConfig, VisionTowerConfig, build_vocab
from illume_fast.model.illume import IllumeModel, Sample
from illume_fast.model.vision_config import PixelCodecConfig, ViTConfig


def mllm_config(official: dict, max_length: int = 4096) -> IllumeModelConfig:
    layout, tower = official["vocab"], official["mm_vision_tower"]
    levels = tuple(layout[f"level{i}_range"][1] - layout[f"level{i}_range"][0] for i in (0, 1))
    vocab = build_vocab(
        layout["special_tokens_ids"][0],
        pad=layout["pad"],
        im_start=layout["im_start"],
        im_end=layout["im_end"],
        levels=levels,
        rows=layout["vocab_size"],
    )
    vision = tower["vq_model"]["config"]
    return IllumeModelConfig(
        decoder=DecoderConfig.from_hf(official),
        vision_tower=VisionTowerConfig(
            pick(ViTConfig, vision["semantic_encoder"]["semantic_encoder"]),
            pick(PixelCodecConfig, vision["pixel_encoder"]),
            tower["min_pixels"],
            tower["max_pixels"],
        ),
        projector=ProjectorConfig(official["mm_projector"]["projector_cfg1"]["mlp_depth"]),
        vocab=vocab,
        max_length=max_length,
    )


def picture(u8: Tensor) -> Tensor:
    """uint8 [1, H, W, 3] -> [1, 3, H, W] in [-1, 1]."""
    return ((u8.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)


class Recorded:
    """The model with its weights, and the recorded samples."""

    def __init__(self, folder: Path, max_length: int = 4096):
        self.official, self.inputs, self.outputs = read_case(folder)
        self.config = mllm_config(self.official, max_length)
        self.model = IllumeModel(self.config).eval()
        self.model.load_state_dict(read_weights(folder))

    def image(self, name: str) -> Tensor:
        return picture(self.inputs[f"image_u8.{name}"])

    def sample(self, name: str) -> Sample:
        images = [self.image(i) for i in self.official["samples"][name]["images"]]
        return Sample(self.inputs[f"{name}.input_ids"], self.inputs[f"{name}.labels"], images)

    @torch.no_grad()
    def logits(self, embeds: Tensor) -> Tensor:
        return self.model.hidden(embeds) @ self.model.head_weight.T
