"""Any vision encoder of Hugging Face as features on ILLUME's grid of 16 x 16."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.dual_vitok import to_map, to_tokens
from illume_fast.model.semantic_config import SIDE, EncoderConfig
from illume_fast.model.strict import ConfigError
from illume_fast.model.vision_config import ViTConfig
from illume_fast.model.vision_encoder import CLIP_MEAN, CLIP_STD, Qwen2ViT

QWEN2_VL = "qwen2_vl_vision"
_LINE = 160


class VisionEncoder(nn.Module):
    """Pictures -> features [B, 256, D] in raster order, whatever grid the encoder has of its own.

    The encoder's last hidden states are taken, without class and register tokens. A finer grid than 16 x 16 is
    averaged down (each feature the mean of the cells it covers), a coarser one interpolated (bilinear). The Qwen2-VL
    transformer is our own `Qwen2ViT`, under the same names; it gives its merged features.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _build(config)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1], of any size -> [B, 256, D]. ConfigError when D is not the config's."""
        image = scaled(pictures, self.config.image_size)
        features = self.model(image) if isinstance(self.model, Qwen2ViT) else self.own_features(image)
        cells = features.shape[1]
        if features.shape[-1] != self.config.width:
            raise ConfigError(
                f"vision encoder: its features have width {features.shape[-1]}, the config says {self.config.width}"
            )
        side = int(cells**0.5)
        return to_side(features, (side, side))

    def own_features(self, image: Tensor) -> Tensor:
        """Square pictures in [-1, 1] -> features of the encoder's own square grid."""
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (self.config.mean, self.config.std))
        settings: Any = self.model.config
        own = getattr(settings, "image_size", None)
        foreign = own not in (None, self.config.image_size, [self.config.image_size] * 2) and _takes_sizes(self.model)
        options = {"interpolate_pos_encoding": True} if foreign else {}
        hidden = self.model(pixel_values=((image + 1) / 2 - mean) / std, **options).last_hidden_state
        if hidden.dim() == 4:  # convolutional encoders answer with a map
            return to_tokens(hidden)
        side = self.config.image_size // _patch_size(settings)
        extra = hidden.shape[1] - side * side
        if extra < 0:
            raise ConfigError(
                f"vision encoder {settings.model_type!r}: {hidden.shape[1]} features for a picture of "
                f"{side} x {side} patches; it cannot be put on a grid"
            )
        return hidden[:, extra:]


def scaled(pictures: Tensor, size: int) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] -> [B, 3, size, size] (bicubic, antialiased, float32, clamped)."""
    if tuple(pictures.shape[-2:]) == (size, size):
        return pictures
    new = F.interpolate(pictures.float(), size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return new.clamp(-1, 1).to(pictures.dtype)


def to_side(features: Tensor, grid: tuple[int, int], side: int = SIDE) -> Tensor:
    """Features [B, R * S, D] of grid (R, S) -> [B, side * side, D]: means of cells, or bilinear where those are few."""
    if grid == (side, side):
        return features
    image = to_map(features, grid)
    if min(grid) >= side:
        return to_tokens(F.adaptive_avg_pool2d(image, side))
    return to_tokens(F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False))


def encoder_config(
    settings: Mapping[str, Any],
    image_size: int = 448,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> EncoderConfig:
    """The config of an encoder by its `settings`; the width of its features is found out on the meta device.

    ConfigError for an encoder that is not known or cannot be put on a grid.
    """
    guess = EncoderConfig(dict(settings), 1, image_size, mean, std)  # type: ignore[arg-type]
    with torch.device("meta"):
        encoder = VisionEncoder(guess)
        if isinstance(encoder.model, Qwen2ViT):
            width = encoder.model.config.hidden_size
        else:
            with torch.no_grad():
                width = encoder.to("meta").own_features(torch.empty(1, 3, image_size, image_size)).shape[-1]
    return EncoderConfig(dict(settings), width, image_size, guess.mean, guess.std)


def _build(config: EncoderConfig) -> nn.Module:
    kind = config.settings["model_type"]
    if kind == QWEN2_VL:
        return Qwen2ViT(_qwen2_vit(config))
    try:
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise ConfigError(
            f"a vision encoder of Hugging Face needs the package {error.name!r}; install it with: "
            "pip install 'illume-fast[huggingface]'"
        ) from None
    try:
        settings = AutoConfig.for_model(**config.settings)
        if torch.get_default_device().type != "meta":
            model = AutoModel.from_config(settings)
        else:
            # tables that are no part of a checkpoint have to be real
            with torch.device("cpu"), init_empty_weights(include_buffers=False):
                model = AutoModel.from_config(settings)
    # transformers raises whatever a model's own code raises
    except Exception as error:
        raise ConfigError(f"vision encoder {kind!r}: transformers cannot build it: {_line(error)}") from None
    wanted = inspect.signature(model.forward).parameters
    needed = [n for n, p in wanted.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if "pixel_values" not in wanted or set(needed) - {"pixel_values"}:
        raise ConfigError(
            f"vision encoder {kind!r}: it takes {', '.join(wanted)}; needed is one that takes pixel_values alone, "
            f"or {QWEN2_VL!r}"
        )
    return model


def _qwen2_vit(config: EncoderConfig) -> ViTConfig:
    """Sizes of a Qwen2-VL transformer, named as there."""
    given = config.settings
    vit = ViTConfig(**{field.name: given[field.name] for field in fields(ViTConfig) if field.name in given})
    if config.image_size % vit.cell:
        raise ConfigError(
            f"vision encoder {QWEN2_VL!r}: image_size {config.image_size} must be a multiple of {vit.cell} pixels"
        )
    if (config.mean, config.std) != (CLIP_MEAN, CLIP_STD):
        raise ConfigError(f"vision encoder {QWEN2_VL!r}: pictures are normalised with {CLIP_MEAN} and {CLIP_STD} alone")
    if given.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise ConfigError(f"vision encoder {QWEN2_VL!r}: hidden_act {given['hidden_act']!r}; allowed is 'quick_gelu'")
    return vit


def _takes_sizes(model: nn.Module) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def _patch_size(settings: Any) -> int:
    size = getattr(settings, "patch_size", None)
    if not isinstance(size, int):
        raise ConfigError(f"vision encoder {settings.model_type!r}: patch_size {size!r} must be a whole number")
    return size


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LINE] or type(error).__name__
