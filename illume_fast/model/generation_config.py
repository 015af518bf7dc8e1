"""What a checkpoint draws with unless told otherwise, and the whole of its `config.json`."""

import math
from dataclasses import dataclass

from illume_fast.model.config import IllumeModelConfig
from illume_fast.model.strict import Config, ConfigError
from illume_fast.model.vision_config import DualViTokConfig

FORMAT = 1
DECODERS = ("pixel", "diffusion")
MODEL_TYPE = "illume_fast"


@dataclass(frozen=True)
class SamplingDefaults(Config):
    """How one kind of token is drawn; top_k 0 and top_p 1 keep everything, temperature 0 takes the best."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ConfigError(
                f"SamplingDefaults: temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}; "
                "allowed are temperature >= 0, top_k >= 0, 0 < top_p <= 1"
            )


@dataclass(frozen=True)
class GenerationConfig(Config):
    """Sizes (height, width) the model was trained for, the first the default, and how it samples.

    `extra_sizes` are those of earlier stages of training: drawn where they are asked for, never chosen by themselves.
    `has_unconditional` says whether training dropped prompts, without which guidance means nothing. `decoder` says what
    makes pictures of codes unless a user says otherwise: the tokenizer's own "pixel" decoder, or a "diffusion" decoder.
    `repetition_penalty` is that of a published `generation_config.json`, which the official code applies and the plain
    chain does not.
    """

    sizes: tuple[tuple[int, int], ...]
    guidance: float = 2.0
    edit_guidance: float = 1.5
    has_unconditional: bool = True
    text: SamplingDefaults = SamplingDefaults()
    semantic: SamplingDefaults = SamplingDefaults(top_k=2048)
    pixel: SamplingDefaults = SamplingDefaults(top_k=6144)
    max_answer: int = 1024
    decoder: str = "pixel"
    repetition_penalty: float = 1.0
    extra_sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ConfigError("GenerationConfig.sizes: at least one size is needed")
        if not (math.isfinite(self.guidance) and math.isfinite(self.edit_guidance)):
            raise ConfigError(f"GenerationConfig: guidance {self.guidance}, {self.edit_guidance} must be finite")
        if self.max_answer < 1:
            raise ConfigError(f"GenerationConfig.max_answer: must be at least 1, got {self.max_answer}")
        if self.decoder not in DECODERS:
            raise ConfigError(f"GenerationConfig.decoder: {self.decoder!r}; allowed are {', '.join(DECODERS)}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"GenerationConfig.repetition_penalty: must be above 0, got {self.repetition_penalty}")

    @property
    def size(self) -> tuple[int, int]:
        """The default size (height, width)."""
        return self.sizes[0]

    @property
    def allowed_sizes(self) -> tuple[tuple[int, int], ...]:
        """All sizes that may be asked for."""
        return *self.sizes, *self.extra_sizes


@dataclass(frozen=True)
class CheckpointConfig(Config):
    """`config.json`: the language model, its vision tokenizer, and generation defaults.

    `fingerprint` ties the file to the weights saved with it. Without `has_vision_tokenizer` the folder holds none:
    `vision_tokenizer` then gives the sizes that one must have.
    """

    model: IllumeModelConfig
    vision_tokenizer: DualViTokConfig
    generation: GenerationConfig
    model_type: str = MODEL_TYPE
    fingerprint: str = ""
    format: int = FORMAT
    has_vision_tokenizer: bool = True

    def __post_init__(self) -> None:
        if self.model_type != MODEL_TYPE:
            raise ConfigError(f"CheckpointConfig.model_type: {self.model_type!r} is not known; only {MODEL_TYPE!r} is")
        if self.format != FORMAT:
            raise ConfigError(f"CheckpointConfig.format: {self.format} is not known; this version reads {FORMAT}")
        vocab, tokenizer = self.model.vocab, self.vision_tokenizer
        for level, quantizer in enumerate((tokenizer.semantic_quantizer, tokenizer.pixel_quantizer)):
            if vocab.codes(level) != quantizer.codebook_size:
                raise ConfigError(
                    f"CheckpointConfig: level {level} has {vocab.codes(level)} ids in the vocabulary, "
                    f"{quantizer.codebook_size} codes in the vision tokenizer"
                )
        tower = self.model.vision_tower
        for height, width in self.generation.allowed_sizes:
            drawn, seen = tokenizer.grids(height, width), tower.grids(height, width)
            if drawn != seen:
                raise ConfigError(
                    f"CheckpointConfig: a picture of {height}x{width} has the grids {drawn} in the vision tokenizer,"
                    f" {seen} in the vision tower"
                )
            vocab.size_tag(height, width)
