"""A pipeline with small random weights that draws all the sizes of the published models, on their grids."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_pipeline import WORDS
from tiny_vision import LEVELS, tiny_vision

from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, build
from illume_fast.model.config import DecoderConfig, build_vocab
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig
from illume_fast.model.presets import demo
from illume_fast.model.vision_config import MAPPED_SIZES, PixelCodecConfig
from illume_fast.pipeline import IllumePipeline

SIZES = tuple(MAPPED_SIZES)


def sized_pipeline(folder: Path) -> IllumePipeline:
    """Semantic cells of 28 pixels, so that sizes are mapped as published, and pixel codes of 16."""
    text = TextTokenizer.train(WORDS * 3, 300)
    text.save(folder / "tokenizer.json")
    vocab = build_vocab(text.size, pad=text.pad, im_start=text.im_start, im_end=text.im_end, levels=LEVELS)
    # the picture is folded into fewer positions first, which spares the test the full resolution
    pixel = PixelCodecConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), patch_size=8)
    tokenizer, tower = tiny_vision(pixel)
    vit = replace(tower.semantic_encoder, patch_size=14)
    tokenizer = replace(tokenizer, semantic_encoder=replace(tokenizer.semantic_encoder, vit=vit))
    decoder = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    model = replace(demo().model, decoder=decoder, vision_tower=replace(tower, semantic_encoder=vit), vocab=vocab)
    config = CheckpointConfig(model, tokenizer, GenerationConfig(SIZES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language, vision = build(config, "cpu")
    checkpoint = Checkpoint(config, language.eval(), vision.eval(), folder / "tokenizer.json")
    return IllumePipeline(checkpoint, EngineConfig(max_batch=16, cache_tokens=2**17))
