"""A whole pipeline of ILLUME, the first model, with small random weights."""

from pathlib import Path

import torch
from tiny_llama import llama_text
from tiny_semantic import tiny_tokenizer

from illume_fast.decoding import Decoder
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, build
from illume_fast.model.config import DecoderConfig, ProjectorConfig
from illume_fast.model.generation_config import GenerationConfig, SamplingDefaults
from illume_fast.model.semantic_config import PICTURE
from illume_fast.model.v1_config import IllumeV1CheckpointConfig, IllumeV1Config, SlicedTowerConfig, illume_vocab
from illume_fast.pipeline import IllumePipeline

BASE = 64


def tiny_v1_config(folder: Path) -> IllumeV1CheckpointConfig:
    """Pictures are read in slices of 64 pixels; writes `tokenizer.json` into `folder`."""
    text = llama_text(folder)
    tokenizer = tiny_tokenizer("siglip", 64)
    vocab = illume_vocab(text.size, pad=text.pad, start=text.im_start, end=text.im_end, codes=tokenizer.codebook_size)
    decoder = DecoderConfig(
        vocab_size=vocab.rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, rope_theta=10000.0, qkv_bias=False, max_position_embeddings=4096,
    )  # fmt: skip
    model = IllumeV1Config(decoder, SlicedTowerConfig(tokenizer.encoder, BASE), ProjectorConfig(), vocab)
    generation = GenerationConfig((PICTURE,), semantic=SamplingDefaults(top_k=9), max_answer=12, decoder="diffusion")
    return IllumeV1CheckpointConfig(model, tokenizer, generation)


def tiny_v1_checkpoint(folder: Path) -> Checkpoint:
    config = tiny_v1_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, vision = build(config, "cpu")
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return Checkpoint(config, model.eval(), vision.eval(), folder / "tokenizer.json")


def tiny_v1_pipeline(folder: Path, decoder: Decoder | None = None) -> IllumePipeline:
    return IllumePipeline(tiny_v1_checkpoint(folder), EngineConfig(max_batch=8, cache_tokens=16384), decoder)
