"""How the language model sees: continuous features of a picture at two grains."""

from torch import Tensor, nn

from illume_fast.model.config import VisionTowerConfig
from illume_fast.model.movqgan import MoVQEncoder
from illume_fast.model.vision_encoder import Qwen2ViT


class DualVisionTower(nn.Module):
    """Merged features of a vision transformer beside the pixel encoder's map, both before any quantiser.

    The weights start as the vision tokenizer's, but are fine-tuned with the language model and belong to it.
    """

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.semantic_encoder = Qwen2ViT(config.semantic_encoder)
        self.pixel_encoder = MoVQEncoder(config.pixel_encoder)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1] -> semantic [B, h * w, D0] and pixel features [B, p * q, D1]."""
        return self.semantic_encoder(pictures), self.pixel_encoder(pictures).flatten(2).transpose(1, 2)
