"""DualViTok, the vision tokenizer of ILLUME+: pictures to semantic and pixel codes, and back.

Shapes: B pictures of H x W pixels, D semantic feature width, h x w the semantic grid, p x q the pixel grid.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.movqgan import MoVQDecoder, MoVQEncoder
from illume_fast.model.vision_config import DualViTokConfig, SemanticDecoderConfig, SemanticEncoderConfig
from illume_fast.model.vision_encoder import Qwen2ViT, VisionBlocks
from illume_fast.model.vq import SimVQ


class SemanticEncoder(nn.Module):
    """The vision transformer, and the blocks from its features to the width of the codes."""

    def __init__(self, config: SemanticEncoderConfig):
        super().__init__()
        self.model = Qwen2ViT(config.vit)
        self.proj_in = nn.Conv2d(config.vit.hidden_size, config.embed_dim, 1)
        self.blocks = VisionBlocks(config.num_blocks, config.embed_dim, config.num_heads)
        self.proj_out = nn.Sequential(nn.Linear(config.embed_dim, config.z_channels))

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """features [B, h * w, D] -> values to quantise [B, z_channels, h, w]."""
        h = F.linear(features, self.proj_in.weight.flatten(1), self.proj_in.bias)
        return to_map(self.proj_out(self.blocks(h, grid)), grid)


class SemanticDecoder(nn.Module):
    """Rebuilds the encoder's features [B, h * w, D] from the codes [B, z_channels, h, w]."""

    def __init__(self, config: SemanticDecoderConfig):
        super().__init__()
        self.proj_in = nn.Linear(config.z_channels, config.embed_dim)
        self.blocks = VisionBlocks(config.num_blocks, config.embed_dim, config.num_heads)
        self.proj_out = nn.Sequential(
            nn.Linear(config.embed_dim, config.output_channels), nn.LayerNorm(config.output_channels)
        )

    def forward(self, codes: Tensor) -> Tensor:
        grid = tuple(codes.shape[-2:])
        return self.proj_out(self.blocks(self.proj_in(to_tokens(codes)), grid))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of encoded pictures: straight-through codes, ids and the quantisers' losses."""

    semantic_codes: Tensor  # [B, z, h, w]
    pixel_codes: Tensor  # [B, z, p, q]
    semantic_ids: Tensor  # int64 [B, h, w]
    pixel_ids: Tensor  # int64 [B, p, q]
    semantic_loss: Tensor
    pixel_loss: Tensor
    target: Tensor  # [B, h * w, D]


class DualViTok(nn.Module):
    """Encodes pictures [B, 3, H, W] in [-1, 1] to two maps of ids, and decodes them.

    Source: ILLUME+ (Huang et al., arXiv 2504.01934); names of weights are those of the published checkpoint.
    """

    def __init__(self, config: DualViTokConfig):
        super().__init__()
        self.config = config
        pixel, both = config.pixel_quantizer.dim, config.pixel_decoder.z_channels
        self.semantic_encoder = SemanticEncoder(config.semantic_encoder)
        self.semantic_quantizer = SimVQ(config.semantic_quantizer)
        self.semantic_decoder = SemanticDecoder(config.semantic_decoder)
        self.pixel_encoder = MoVQEncoder(config.pixel_encoder)
        self.pixel_quantizer = SimVQ(config.pixel_quantizer)
        self.pixel_decoder = MoVQDecoder(config.pixel_decoder)
        self.pixel_quant_conv = nn.Conv2d(config.pixel_encoder.z_channels, pixel, 1)
        self.pixel_post_quant_conv = nn.Conv2d(both, both, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> (semantic values [B, z, h, w], pixel values [B, z, p, q], target features [B, h * w, D])."""
        grid, _ = self.config.grids(*x.shape[-2:])
        return self.to_quantize(self.semantic_encoder.model(x), self.pixel_encoder(x), grid)

    def to_quantize(self, raw: Tensor, pixel: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """What both encoders return, [B, h * w, D] and [B, C, p, q], -> the same as `features`.

        The normalised semantic features are what the semantic codes are made from and must rebuild.
        """
        target = F.layer_norm(raw, raw.shape[-1:], eps=1e-6)
        return self.semantic_encoder(target, grid), self.pixel_quant_conv(pixel), target

    def quantize(self, x: Tensor) -> Encoded:
        """Pictures -> codes with gradients and losses, for training."""
        semantic, pixel, target = self.features(x)
        semantic_codes, semantic_loss, semantic_ids = self.semantic_quantizer(semantic)
        pixel_codes, pixel_loss, pixel_ids = self.pixel_quantizer(pixel)
        return Encoded(semantic_codes, pixel_codes, semantic_ids, pixel_ids, semantic_loss, pixel_loss, target)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures -> (semantic ids int64 [B, h, w], pixel ids int64 [B, p, q])."""
        grid, _ = self.config.grids(*x.shape[-2:])
        return self.encode_features(self.semantic_encoder.model(x), self.pixel_encoder(x), grid)

    @torch.inference_mode()
    def encode_features(self, raw: Tensor, pixel: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What both encoders return, [B, h * w, D] and [B, C, p, q] -> ids as `encode` gives them."""
        semantic, pixel, _ = self.to_quantize(raw, pixel, grid)
        return self.semantic_quantizer.encode(semantic), self.pixel_quantizer.encode(pixel)

    def merge(self, semantic_codes: Tensor, pixel_codes: Tensor) -> Tensor:
        """Brings the semantic codes to the pixel grid (bicubic, float32) and puts both side by side: [B, 2z, p, q]."""
        size = pixel_codes.shape[-2:]
        grown = F.interpolate(semantic_codes.float(), size=size, mode="bicubic", align_corners=False)
        return torch.cat([grown.to(pixel_codes.dtype), pixel_codes], dim=1)

    def decode(self, semantic_codes: Tensor, pixel_codes: Tensor) -> Tensor:
        """Codes -> pictures [B, 3, H, W], about [-1, 1]."""
        merged = self.merge(semantic_codes, pixel_codes)
        return self.pixel_decoder(self.pixel_post_quant_conv(merged), merged)

    def decode_code(self, semantic_ids: Tensor, pixel_ids: Tensor) -> Tensor:
        """Ids int64 [B, h, w] and [B, p, q] -> pictures [B, 3, H, W], about [-1, 1]."""
        semantic = self.semantic_quantizer.indices_to_codes(semantic_ids)
        return self.decode(semantic, self.pixel_quantizer.indices_to_codes(pixel_ids))

    def noisy(self, pixel_codes: Tensor) -> Tensor:
        """In training, mixes foreign codes into some pictures (rates in the config), so that the decoder learns to lean
        on the semantic codes and forgives an imperfect language model."""
        if not self.training or self.config.pixel_drop_rate is None:
            return pixel_codes
        batch, _, rows, columns = pixel_codes.shape
        pictures = torch.rand(batch, 1, 1, 1, device=pixel_codes.device)
        tokens = torch.rand(batch, 1, rows, columns, device=pixel_codes.device)
        return apply_noise(pixel_codes, pictures, tokens, self.config)


def apply_noise(codes: Tensor, pictures: Tensor, tokens: Tensor, config: DualViTokConfig) -> Tensor:
    """Replaces codes [B, z, p, q] by the previous picture's code at that place ("random") or by nought ("zero").

    It does so where both uniform draws (pictures [B, 1, 1, 1], tokens [B, 1, p, q]) fall below their rates.
    """
    hit = (pictures < config.pixel_drop_batch_rate) & (tokens < (config.pixel_drop_rate or 0.0))
    other = codes.roll(1, 0).detach() if config.pixel_noise_type == "random" else torch.zeros_like(codes)
    return torch.where(hit, other, codes)


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, h * w, C] -> [B, C, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def to_tokens(image: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return image.flatten(2).transpose(1, 2)
