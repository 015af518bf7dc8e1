"""Sizes of ILLUME, the first model: its eyes, the whole, and the `config.json` of its checkpoints."""

from dataclasses import dataclass

from illume_fast.model.config import DecoderConfig, ProjectorConfig
from illume_fast.model.generation_config import FORMAT, GenerationConfig
from illume_fast.model.semantic_config import EncoderConfig, SemanticTokenizerConfig
from illume_fast.model.strict import Config, ConfigError
from illume_fast.model.vocab import VocabConfig, build_vocab

KIND = "illume"


@dataclass(frozen=True)
class SlicedTowerConfig(Config):
    """How pictures are read: whole, and cut into at most `most_slices` squares of `base` pixels."""

    encoder: EncoderConfig
    base: int = 448
    most_slices: int = 9

    def __post_init__(self) -> None:
        if self.base < 1 or self.most_slices < 1:
            raise ConfigError(
                f"SlicedTowerConfig: base {self.base} and most_slices {self.most_slices} must be at least 1"
            )

    def slices(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of slices of a picture that is already brought to whole slices. ValueError for another."""
        rows, columns = height // self.base, width // self.base
        if height % self.base or width % self.base or not 1 <= rows * columns <= self.most_slices:
            raise ValueError(
                f"picture of {height}x{width} pixels: both sides must be multiples of {self.base}, of at most "
                f"{self.most_slices} slices together"
            )
        return rows, columns


@dataclass(frozen=True)
class IllumeV1Config(Config):
    """A whole language model with eyes; `max_length` counts embeddings, pictures expanded.

    `template` names the chat template, one of `data.chat_template`.
    """

    decoder: DecoderConfig
    vision_tower: SlicedTowerConfig
    projector: ProjectorConfig
    vocab: VocabConfig
    max_length: int = 4096
    template: str = "vicuna"

    def __post_init__(self) -> None:
        if self.decoder.vocab_size != self.vocab.rows:
            raise ConfigError(
                f"IllumeV1Config: decoder.vocab_size {self.decoder.vocab_size} differs from vocab.rows "
                f"{self.vocab.rows}"
            )
        if len(self.vocab.levels) != 1:
            raise ConfigError(
                f"IllumeV1Config: the vocabulary has {len(self.vocab.levels)} levels of codes; one is due"
            )


@dataclass(frozen=True)
class IllumeV1CheckpointConfig(Config):
    """`config.json`: the language model, its vision tokenizer, and generation defaults.

    `fingerprint` ties the file to the weights saved with it. Without `has_vision_tokenizer` the folder holds none.
    """

    model: IllumeV1Config
    vision_tokenizer: SemanticTokenizerConfig
    generation: GenerationConfig
    fingerprint: str = ""
    format: int = FORMAT
    has_vision_tokenizer: bool = True
    kind: str = KIND

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(f"IllumeV1CheckpointConfig.format: {self.format}; this version reads {FORMAT}")
        if self.kind != KIND:
            raise ConfigError(f"IllumeV1CheckpointConfig.kind: {self.kind!r}; allowed is {KIND!r}")
        codes, tokenizer = self.model.vocab.codes(0), self.vision_tokenizer
        if codes != tokenizer.codebook_size:
            raise ConfigError(
                f"IllumeV1CheckpointConfig: {codes} ids of codes in the vocabulary, {tokenizer.codebook_size} codes in "
                "the vision tokenizer"
            )
        if self.model.vision_tower.encoder != tokenizer.encoder:
            raise ConfigError(
                "IllumeV1CheckpointConfig: model.vision_tower.encoder differs from vision_tokenizer.encoder; "
                "reading and drawing have the same encoder"
            )
        if self.generation.decoder != "diffusion":
            raise ConfigError(
                f"IllumeV1CheckpointConfig: generation.decoder is {self.generation.decoder!r}; the vision tokenizer "
                "makes no pixels, so allowed is 'diffusion'"
            )
        for height, width in self.generation.allowed_sizes:
            tokenizer.grids(height, width)


def illume_vocab(text_size: int, *, pad: int, start: int, end: int, codes: int = 16_384) -> VocabConfig:
    """Text, `<start_of_image>`, `<end_of_image>`, `<end_of_line>`, codes: one level, one size, no tags."""
    return build_vocab(text_size, pad=pad, im_start=start, im_end=end, levels=(codes,), tag_pixels=())
