"""A folder with a tiny random model, and the same as a Hugging Face model and processor."""

from pathlib import Path

import torch
from PIL import Image
from tiny_pipeline import tiny_pipeline

from illume_fast.engine import EngineConfig
from illume_fast.huggingface import IllumeForConditionalGeneration, IllumeProcessor
from illume_fast.model.checkpoint import save_checkpoint

ENGINE = EngineConfig(max_batch=8, cache_tokens=8192)
SIZE = (32, 32)


def save_tiny(folder: Path) -> Path:
    """Write the tiny pipeline's model; its text tokenizer is trained beside it."""
    checkpoint = tiny_pipeline(folder).checkpoint
    words = checkpoint.tokenizer.read_text(encoding="utf-8")
    save_checkpoint(folder, checkpoint.config, checkpoint.model, checkpoint.vision_tokenizer, words)
    return folder


def load_tiny(folder: Path, **options) -> tuple[IllumeForConditionalGeneration, IllumeProcessor]:
    model = IllumeForConditionalGeneration.from_pretrained(folder, engine=ENGINE, **options)
    processor = IllumeProcessor.from_pretrained(folder)
    processor.set_vision_tokenizer(model.vision_tokenizer)
    return model, processor


def photo(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def asks(words: str) -> list[dict]:
    """A conversation that asks for a picture of `words`."""
    text = f"Generate an image of {{resolution_tag}}, the content of image is {words}\n"
    return [{"role": "user", "content": text}]
