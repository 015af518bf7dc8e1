"""Sizes of ILLUME's vision encoder and of the tokenizer over its features."""

import math
from dataclasses import dataclass
from typing import Any

from illume_fast.model.strict import Config, ConfigError
from illume_fast.model.vision_config import SemanticDecoderConfig, SimVQConfig
from illume_fast.model.vision_encoder import CLIP_MEAN, CLIP_STD

SIDE = 16
"""Rows, and columns, of tokens of a picture."""
PICTURE = (512, 512)
"""Height and width in pixels of a picture that is drawn."""
QUANTIZERS = ("simvq", "ema")


@dataclass(frozen=True)
class EncoderConfig(Config):
    """A vision encoder of Hugging Face, and what it is shown.

    `settings` is its `config.json`: `model_type` and whatever differs from that type's defaults. Pictures come to it
    as squares of `image_size` pixels, normalised with `mean` and `std`; `width` is that of a feature.
    """

    settings: dict[str, Any]
    width: int
    image_size: int = 448
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if not isinstance(self.settings.get("model_type"), str):
            raise ConfigError("EncoderConfig.settings: needs the 'model_type' of a Hugging Face vision encoder")
        if self.width < 1 or self.image_size < 1:
            raise ConfigError(f"EncoderConfig: width {self.width} and image_size {self.image_size} must be at least 1")
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"EncoderConfig: mean {self.mean} must be finite and std {self.std} above 0")


@dataclass(frozen=True)
class SemanticTokenizerConfig(Config):
    """ILLUME's vision tokenizer: an encoder whose features become `codebook_size` codes of width `z_channels`.

    `num_blocks` transformer blocks of width `embed_dim` stand on either side of the codes. `quantizer` is "simvq" (a
    frozen codebook behind a trained map) or "ema" (one that follows its features with `decay`); `mse_weight` adds the
    squared error to the cosine loss.
    """

    encoder: EncoderConfig
    codebook_size: int = 16_384
    z_channels: int = 32
    embed_dim: int = 1024
    num_blocks: int = 4
    num_heads: int = 16
    quantizer: str = "simvq"
    commitment: float = 0.25
    decay: float = 0.99
    mse_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.quantizer not in QUANTIZERS:
            raise ConfigError(
                f"SemanticTokenizerConfig.quantizer: {self.quantizer!r} is not known; allowed are "
                f"{', '.join(map(repr, QUANTIZERS))}"
            )
        for name in ("codebook_size", "z_channels", "embed_dim", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"SemanticTokenizerConfig.{name}: must be at least 1, got {getattr(self, name)}")
        if self.num_blocks < 0 or self.embed_dim % (4 * self.num_heads):
            raise ConfigError(
                f"SemanticTokenizerConfig: embed_dim {self.embed_dim} over num_heads {self.num_heads} must give a head "
                f"size divisible by 4, and num_blocks {self.num_blocks} must not be negative"
            )
        if not (0.0 <= self.decay < 1.0 and self.commitment >= 0.0 and self.mse_weight >= 0.0):
            raise ConfigError(
                f"SemanticTokenizerConfig: decay {self.decay} must lie in [0, 1), commitment {self.commitment} and "
                f"mse_weight {self.mse_weight} must not be negative"
            )

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the codes of a picture: 16 x 16, one for 32 x 32 pixels. ValueError but for 512 x 512."""
        if (height, width) != PICTURE:
            raise ValueError(f"size {height}x{width}: pictures of this model have {PICTURE[0]}x{PICTURE[1]} pixels")
        return ((SIDE, SIDE),)

    @property
    def codes(self) -> SimVQConfig:
        """The codebook."""
        return SimVQConfig(codebook_size=self.codebook_size, dim=self.z_channels, commitment=self.commitment)

    @property
    def decoder(self) -> SemanticDecoderConfig:
        """The blocks that rebuild features from codes."""
        return SemanticDecoderConfig(
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            embed_dim=self.embed_dim,
            z_channels=self.z_channels,
            output_channels=self.encoder.width,
        )
