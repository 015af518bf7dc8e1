"""Configurations of known models."""

from dataclasses import replace

from illume_fast.model.config import (
    DecoderConfig,
    IllumeModelConfig,
    ProjectorConfig,
    VisionTowerConfig,
    build_vocab,
    illume_plus_vocab,
)
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig, SamplingDefaults
from illume_fast.model.semantic_config import PICTURE, EncoderConfig, SemanticTokenizerConfig
from illume_fast.model.v1_config import IllumeV1CheckpointConfig, IllumeV1Config, SlicedTowerConfig, illume_vocab
from illume_fast.model.vision_config import (
    MAPPED_SIZES,
    DualViTokConfig,
    PixelCodecConfig,
    SemanticDecoderConfig,
    SemanticEncoderConfig,
    SimVQConfig,
    ViTConfig,
)

_STAGE1_SIZE = (256, 256)


def _illume_plus(decoder: DecoderConfig) -> CheckpointConfig:
    tokenizer = DualViTokConfig()
    tower = VisionTowerConfig(tokenizer.semantic_encoder.vit, tokenizer.pixel_encoder)
    model = IllumeModelConfig(decoder, tower, ProjectorConfig(), illume_plus_vocab(decoder.vocab_size))
    return CheckpointConfig(model, tokenizer, published_generation())


def published_generation() -> GenerationConfig:
    """How the published models draw: at the eleven sizes of their last stage, or if asked at that of the first two."""
    sizes = tuple(size for size in MAPPED_SIZES if size != _STAGE1_SIZE)
    return GenerationConfig(sizes, decoder="diffusion", extra_sizes=(_STAGE1_SIZE,))


def illume_plus_3b() -> CheckpointConfig:
    """ILLUME+ on Qwen2.5-3B-Instruct, as published."""
    return _illume_plus(DecoderConfig(
        vocab_size=283047, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, tie_word_embeddings=True,
    ))  # fmt: skip


def illume_plus_7b() -> CheckpointConfig:
    """ILLUME+ on Qwen2.5-7B-Instruct, as published."""
    return _illume_plus(DecoderConfig(
        vocab_size=283175, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    ))  # fmt: skip


def illume_7b() -> IllumeV1CheckpointConfig:
    """ILLUME on Vicuna-7B v1.5, with a token for padding. Its encoder is not published; SigLIP So400m/14, whose 32 x 32
    patches of a picture of 448 pixels give 16 x 16 means, stands in for it."""
    encoder = EncoderConfig(
        {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
            "vision_use_head": False,
        },
        width=1152, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )  # fmt: skip
    vocab = illume_vocab(32_001, pad=32_000, start=1, end=2)
    decoder = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, rope_theta=10000.0, rms_norm_eps=1e-5, qkv_bias=False, max_position_embeddings=4096,
    )  # fmt: skip
    generation = GenerationConfig((PICTURE,), decoder="diffusion")
    model = IllumeV1Config(decoder, SlicedTowerConfig(encoder), ProjectorConfig(), vocab)
    return IllumeV1CheckpointConfig(model, SemanticTokenizerConfig(encoder), generation)


def demo_tokenizer() -> DualViTokConfig:
    """The demo's vision tokenizer: 4 x 4 semantic and 8 x 8 pixel codes for a picture of 64 x 64."""
    vit = ViTConfig(depth=3, embed_dim=160, num_heads=5, hidden_size=192, patch_size=8, temporal_patch_size=1)
    encoder = PixelCodecConfig(ch=64, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(2,), patch_size=2)
    return DualViTokConfig(
        semantic_encoder=SemanticEncoderConfig(vit=vit, num_blocks=1, num_heads=4, embed_dim=128),
        semantic_quantizer=SimVQConfig(codebook_size=512),
        semantic_decoder=SemanticDecoderConfig(num_blocks=1, num_heads=4, embed_dim=128, output_channels=192),
        pixel_encoder=encoder,
        pixel_quantizer=SimVQConfig(codebook_size=2048),
        pixel_decoder=replace(encoder, z_channels=64, embed_dim=64),
    )


def demo(text_size: int = 1024) -> CheckpointConfig:
    """The ILLUME+ architecture for pictures of 64 x 64, small enough to train on a laptop.

    `text_size` counts the text tokens, the last three of which are `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.
    """
    tokenizer = demo_tokenizer()
    codes = tokenizer.semantic_quantizer.codebook_size, tokenizer.pixel_quantizer.codebook_size
    vocab = build_vocab(
        text_size, pad=text_size - 3, im_start=text_size - 2, im_end=text_size - 1, levels=codes, tag_pixels=(64,)
    )
    language = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=256, intermediate_size=704, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=8, rope_theta=10000.0, tie_word_embeddings=True, max_position_embeddings=1024,
        dropout=0.1,
    )  # fmt: skip
    tower = VisionTowerConfig(tokenizer.semantic_encoder.vit, tokenizer.pixel_encoder)
    model = IllumeModelConfig(language, tower, ProjectorConfig(), vocab, max_length=1024)
    everything = SamplingDefaults()
    generation = GenerationConfig(((64, 64),), semantic=everything, pixel=everything, max_answer=64)
    return CheckpointConfig(model, tokenizer, generation)
