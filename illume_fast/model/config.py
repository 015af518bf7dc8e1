"""Sizes of the language model, of its eyes and of the whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from illume_fast.model.strict import Config, ConfigError
from illume_fast.model.vision_config import PixelCodecConfig, ViTConfig, dual_grids
from illume_fast.model.vocab import VocabConfig, build_vocab, illume_plus_vocab

__all__ = [
    "Config",
    "ConfigError",
    "DecoderConfig",
    "IllumeModelConfig",
    "ProjectorConfig",
    "VisionTowerConfig",
    "VocabConfig",
    "build_vocab",
    "illume_plus_vocab",
]


@dataclass(frozen=True)
class DecoderConfig(Config):
    """A Qwen2, Qwen3 or Llama decoder; `dropout` acts in training, on embeddings and both residual branches."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None = None
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32768
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"DecoderConfig.{name}: must be at least 1, got {getattr(self, name)}")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"DecoderConfig: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}; give head_dim"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"DecoderConfig: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_size % 2:
            raise ConfigError(f"DecoderConfig: rotary positions need an even head size, got {self.head_size}")
        if not (self.rope_theta > 0.0 and self.rms_norm_eps >= 0.0):
            raise ConfigError(
                f"DecoderConfig: rope_theta {self.rope_theta} and rms_norm_eps {self.rms_norm_eps} must be positive"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"DecoderConfig.dropout: must be in [0, 1), got {self.dropout}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Read the `config.json` of a Qwen2, Qwen3, Llama or Vicuna model.

        Scaled rotary positions, sliding windows, other activations and biases outside q/k/v are `ConfigError`s.
        """
        kind = values.get("model_type")
        if kind not in _HF_KINDS:
            raise ConfigError(f"model_type {kind!r} is not supported; allowed are {', '.join(sorted(_HF_KINDS))}")
        if missing := [key for key in _HF_REQUIRED if key not in values]:
            raise ConfigError(f"{kind} config: missing keys {', '.join(missing)}")
        if wrong := [f"{key} {values[key]!r}" for key in _HF_REQUIRED if type(values[key]) is not int]:
            raise ConfigError(f"{kind} config: expected whole numbers, got {', '.join(wrong)}")
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise ConfigError(f"{kind} config: rope_parameters or rope_scaling is {rope!r}; expected an object")
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        refused = {
            "rope type": (rope_type, "default"),
            "hidden_act": (values.get("hidden_act", "silu"), "silu"),
            "use_sliding_window": (bool(values.get("use_sliding_window")), False),
            "mlp_bias": (bool(values.get("mlp_bias")), False),
            "attention_bias": (bool(values.get("attention_bias")), False),
        }
        for name, (got, allowed) in refused.items():
            if got != allowed:
                raise ConfigError(f"{kind} config: {name} {got!r} is not supported, only {allowed!r}")
        heads = values["num_attention_heads"]
        kv_heads = values.get("num_key_value_heads") or heads
        theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
        epsilon = values.get("rms_norm_eps", 1e-6)
        if type(kv_heads) is not int:
            raise ConfigError(f"{kind} config: expected a whole number, got num_key_value_heads {kv_heads!r}")
        for name, got in {"rope_theta": theta, "rms_norm_eps": epsilon}.items():
            if type(got) not in (int, float) or not 0 < got < math.inf:
                raise ConfigError(f"{kind} config: {name} is {got!r}; expected a number above 0")
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            num_hidden_layers=values["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=values.get("head_dim"),
            rope_theta=float(theta),
            rms_norm_eps=float(epsilon),
            qkv_bias=kind in ("qwen2", "illume_qwen2"),
            qk_norm=kind == "qwen3",
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            max_position_embeddings=values.get("max_position_embeddings", 32768),
        )


_HF_KINDS = frozenset({"qwen2", "qwen3", "llama", "illume_qwen2"})
_HF_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class VisionTowerConfig(Config):
    """The two encoders whose continuous features the language model reads, and the picture areas they accept."""

    semantic_encoder: ViTConfig
    pixel_encoder: PixelCodecConfig
    min_pixels: int = 32**2
    max_pixels: int = 768**2

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a semantic and of a pixel feature."""
        return self.semantic_encoder.hidden_size, self.pixel_encoder.z_channels

    @property
    def factor(self) -> int:
        """Pictures must have sides that are multiples of this many pixels."""
        return self.pixel_encoder.factor

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((semantic rows, columns), (pixel rows, columns)) of a picture; ValueError unless sides suit the factor."""
        return dual_grids(self.semantic_encoder, self.pixel_encoder, height, width)


@dataclass(frozen=True)
class ProjectorConfig(Config):
    """Number of linear layers, with GELU between them, from each kind of feature to the decoder's width."""

    depth: int = 2

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"ProjectorConfig.depth: must be at least 1, got {self.depth}")


@dataclass(frozen=True)
class IllumeModelConfig(Config):
    """A whole multimodal language model; `max_length` counts embeddings, images expanded.

    `template` names the chat template, one of `data.chat_template`.
    """

    decoder: DecoderConfig
    vision_tower: VisionTowerConfig
    projector: ProjectorConfig
    vocab: VocabConfig
    max_length: int = 4096
    template: str = "qwen2"

    def __post_init__(self) -> None:
        if self.decoder.vocab_size != self.vocab.rows:
            raise ConfigError(
                f"IllumeModelConfig: decoder.vocab_size {self.decoder.vocab_size} differs from vocab.rows "
                f"{self.vocab.rows}"
            )
