"""A pipeline of small random weights that draws pictures of 256 x 256 with a code for 16 pixels, as ILLUME+ does."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_pipeline import WORDS, tiny_config
from tiny_vision import LEVELS, tiny_vision

from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import build, save_checkpoint
from illume_fast.model.config import build_vocab
from illume_fast.model.generation_config import GenerationConfig
from illume_fast.model.vision_config import PixelCodecConfig

SIZE = (256, 256)


def write_model(folder: Path, **generation: object) -> Path:
    text = TextTokenizer.train(WORDS * 3, 300)
    base = tiny_config(text)
    pixel = PixelCodecConfig(ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(4,))
    tokenizer, tower = tiny_vision(pixel)
    vit = replace(tower.semantic_encoder, patch_size=32)
    tokenizer = replace(tokenizer, semantic_encoder=replace(tokenizer.semantic_encoder, vit=vit))
    vocab = build_vocab(
        text.size, pad=text.pad, im_start=text.im_start, im_end=text.im_end, levels=LEVELS, tag_pixels=(256,)
    )
    decoder = replace(base.model.decoder, vocab_size=vocab.rows)
    tower = replace(tower, semantic_encoder=vit)
    model = replace(base.model, decoder=decoder, vision_tower=tower, vocab=vocab)
    config = replace(base, model=model, vision_tokenizer=tokenizer, generation=GenerationConfig((SIZE,), **generation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language, vision = build(config, "cpu")
        for parameter in language.model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    save_checkpoint(folder, config, language, vision, text.to_json())
    return folder
