"""A whole pipeline with small random weights, for sizes 32x32 and 32x64."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_vision import LEVELS, tiny_vision

from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, build
from illume_fast.model.config import DecoderConfig, build_vocab
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig, SamplingDefaults
from illume_fast.model.presets import demo
from illume_fast.model.vision_config import PixelCodecConfig
from illume_fast.pipeline import IllumePipeline

WORDS = ("a red heart", "a small dog near the tree", "Generate an image of the grass", "make the sky green")
SIZES = ((32, 32), (32, 64))


def tiny_config(text: TextTokenizer, **generation: object) -> CheckpointConfig:
    base = demo()
    vocab = build_vocab(
        text.size, pad=text.pad, im_start=text.im_start, im_end=text.im_end, levels=LEVELS, tag_pixels=(32, 64)
    )
    pixel = PixelCodecConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(3,))
    decoder = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    tokenizer, tower = tiny_vision(pixel)
    model = replace(base.model, decoder=decoder, vision_tower=tower, vocab=vocab)
    settings = {"semantic": SamplingDefaults(), "pixel": SamplingDefaults(top_k=9), "max_answer": 20, **generation}
    return CheckpointConfig(model, tokenizer, GenerationConfig(SIZES, **settings))


def tiny_pipeline(folder: Path, engine: EngineConfig | None = None, **generation: object) -> IllumePipeline:
    text = TextTokenizer.train(WORDS * 3, 300)
    text.save(folder / "tokenizer.json")
    config = tiny_config(text, **generation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, vision = build(config, "cpu")
        for parameter in model.model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    checkpoint = Checkpoint(config, model.eval(), vision.eval(), folder / "tokenizer.json")
    return IllumePipeline(checkpoint, engine or EngineConfig(max_batch=8, cache_tokens=8192))
