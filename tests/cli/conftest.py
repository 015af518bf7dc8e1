"""A small random model on disk, and the command line called in this process or in one of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import on_threads

from illume_fast.cli import main
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import build, save_checkpoint
from illume_fast.model.config import DecoderConfig, build_vocab
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig
from illume_fast.model.presets import demo
from illume_fast.model.vision_config import (
    SemanticDecoderConfig,
    SemanticEncoderConfig,
    SimVQConfig,
)

SIZES = ((64, 64), (32, 64))


def tiny_config(text: TextTokenizer) -> CheckpointConfig:
    """The demo's architecture with next to no weights."""
    base = demo()
    vit = replace(base.vision_tokenizer.semantic_encoder.vit, depth=1, embed_dim=16, num_heads=2, hidden_size=24)
    pixel = replace(base.vision_tokenizer.pixel_encoder, ch=32)
    tokenizer = replace(
        base.vision_tokenizer,
        semantic_encoder=SemanticEncoderConfig(vit=vit, num_blocks=1, num_heads=2, embed_dim=16),
        semantic_quantizer=SimVQConfig(codebook_size=16),
        semantic_decoder=SemanticDecoderConfig(num_blocks=1, num_heads=2, embed_dim=16, output_channels=24),
        pixel_encoder=pixel,
        pixel_quantizer=SimVQConfig(codebook_size=24),
        pixel_decoder=replace(pixel, z_channels=64, embed_dim=64),
    )
    vocab = build_vocab(
        text.size, pad=text.pad, im_start=text.im_start, im_end=text.im_end, levels=(16, 24), tag_pixels=(32, 64)
    )
    decoder = DecoderConfig(
        vocab_size=vocab.rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
    )
    tower = replace(base.model.vision_tower, semantic_encoder=vit, pixel_encoder=pixel)
    model = replace(base.model, decoder=decoder, vision_tower=tower, vocab=vocab)
    return CheckpointConfig(model, tokenizer, GenerationConfig(SIZES, guidance=2.0, edit_guidance=1.5, max_answer=8))


def write_model(
    folder: Path, seed: int = 0, change: Callable[[CheckpointConfig], CheckpointConfig] = lambda config: config
) -> Path:
    """Write a random model into `folder`; `change` may alter its config before."""
    text = TextTokenizer.train(["red apple", "change the colour to green", "What is this?", "blue heart"] * 3, 300)
    config = change(tiny_config(text))
    torch.manual_seed(seed)
    model, vision = build(config, "cpu")
    with torch.no_grad():
        # as they are made, weights are so small that the answer hardly depends on the question
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    save_checkpoint(folder, config, model, vision, text.to_json())
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads, and loses much where other work waits for the same cores."""
    with on_threads(1):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a small random model with the sizes `SIZES`; tests must not change it."""
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def save_tiny() -> Callable[..., Path]:
    """save_tiny(folder, seed=..., change=...) writes another small random model."""
    return write_model


@pytest.fixture
def own_model(tiny_model, tmp_path) -> Path:
    """A copy of the small model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys) -> Callable[..., Outcome]:
    """cli("generate", ...) runs the command line in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = int(exit.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen]:
    """spawn("generate", ...) starts the command line in a process of its own, where `prepare()` is called first."""

    def start(*arguments: object, prepare: Callable[[], object] = lambda: None, **options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "illume_fast.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

        def begin() -> None:
            # a shell that runs the tests in its background has told them, and so their children, to ignore SIGINT
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            prepare()

        # lower priority than the test, which would otherwise miss its moment on a busy machine
        return subprocess.Popen(
            ["nice", "-n", "10", *command], env=environment, preexec_fn=begin, **{**pipes, **options}
        )

    return start


@pytest.fixture
def picture(tmp_path) -> Path:
    """A picture on disk, with transparency."""
    path = tmp_path / "source.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)).save(path)
    return path
