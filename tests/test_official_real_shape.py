"""A folder in the published layout, of a real shape: Qwen2.5-0.5B with the published vocabulary, in bfloat16."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from official_folder import (
    STRUCTURE,
    WORDS,
    describe,
    image_tokens,
    official_values,
    random_like,
    split_tokenizer,
    vision_sizes,
    with_image_tokens,
    write_shards,
)
from PIL import Image
from safetensors import safe_open

from illume_fast.convert import convert_model, convert_tokenizer
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.decoders import open_decoder
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import build, load_checkpoint, read_config
from illume_fast.model.checksums import verify
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.pipeline import IllumePipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LEVELS = (32_768, 98_304)
TEXT, TEXT_SIZE, ROWS = 151_643, 151_665, 283_047
QWEN_0_5B = {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
}  # fmt: skip
# the published order; the others are never looked at here
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|control_{i}|>" for i in range(19))]


def published_tokenizer() -> str:
    """A tokenizer with as many tokens as the published one: most of its words never occur."""
    values = json.loads(TextTokenizer.train(WORDS * 3, 300).to_json())
    vocab = values["model"]["vocab"]
    vocab.update({f"unused{i}": i for i in range(len(vocab), TEXT)})
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    values["added_tokens"] = [
        {"id": TEXT + i, "content": text, "special": text in CONTROL[:3], **same} for i, text in enumerate(CONTROL)
    ]
    return with_image_tokens(json.dumps(values), TEXT_SIZE, LEVELS)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    describe(folder, official_values(TEXT_SIZE, ROWS, LEVELS, **QWEN_0_5B), published_tokenizer())
    model, _ = build(read_config(folder))
    write_shards(folder, random_like(model.state_dict(), std=0.02), 5)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sizes = tokenizer_sizes(vision_sizes(LEVELS), "here")
    torch.save({"model": DualViTok(sizes).state_dict()}, folder / "pytorch_model.bin")
    convert_tokenizer(folder / "pytorch_model.bin", folder / "converted", sizes=sizes)
    return folder / "converted"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        other[name].dtype == tensor.dtype and torch.equal(other[name], tensor) for name, tensor in one.items()
    )


def test_it_is_loaded_run_and_saved_again(official, tokenizer, tmp_path):
    loaded = load_checkpoint(official, torch.bfloat16, vision_tokenizer=tokenizer)
    assert loaded.model.head_weight.shape == (ROWS, 896)
    assert equal(stored(official), loaded.model.state_dict())
    generation = replace(loaded.config.generation, sizes=((64, 64),), decoder="pixel")
    small = replace(loaded, config=replace(loaded.config, generation=generation))
    pipe = IllumePipeline(small, EngineConfig(max_batch=2, cache_tokens=4096), open_decoder(small, "pixel"))
    assert isinstance(pipe.chat("What is this?", Image.new("RGB", (80, 60), "red"), max_new_tokens=3), str)
    assert pipe("a red heart", seed=1).images[0].size == (64, 64)
    assert convert_model(official, tmp_path / "ours", tokenizer)
    assert verify(tmp_path / "ours") >= 5
    again = load_checkpoint(tmp_path / "ours", None, vision_dtype=None)
    assert equal(stored(official), again.model.state_dict())
    assert equal(stored(official), stored(tmp_path / "ours"))
    assert again.config.model == loaded.config.model
    assert again.config.generation == loaded.config.generation


def seconds(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Processor time of each, the least of some rounds in turn, which other work on the machine disturbed least."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for found, work in zip(times, works, strict=True):
            begin = time.process_time()
            work()
            found.append(time.process_time() - begin)
    return [min(found) for found in times]


@pytest.mark.parametrize("older", [False, True])
def test_a_hundred_thousand_image_tokens_slow_nothing_down(official, tmp_path, older):
    """The same text takes the same ids; reading the tokenizer and the text takes no longer than with those tokens."""
    path = official / "tokenizer.json"
    if older:
        split_tokenizer(path.read_text(encoding="utf-8"), tmp_path)
        path = tmp_path / "vocab.json"
    text, whole = TextTokenizer.from_file(path, TEXT_SIZE), TextTokenizer.from_file(path)
    assert (text.size, whole.size) == (TEXT_SIZE, TEXT_SIZE + len(image_tokens(0, LEVELS)))
    assert (text.pad, text.im_start, text.im_end) == (TEXT, TEXT + 1, TEXT + 2)
    prompt = "a small dog near the tree, " * 200
    assert text.encode(prompt) == whole.encode(prompt)
    with_them, without = seconds(20, lambda: whole.encode(prompt), lambda: text.encode(prompt))
    read = TextTokenizer.from_file
    reading_all, reading = seconds(3, lambda: read(path), lambda: read(path, TEXT_SIZE))
    print(f"reading {reading:.2f} s instead of {reading_all:.2f}, a text {without * 1e3:.1f} ms, {with_them * 1e3:.1f}")
    assert without < 2 * with_them
    assert reading < reading_all


def test_no_text_becomes_a_token_of_control(official):
    text = TextTokenizer.from_file(official / "tokenizer.json", TEXT_SIZE)
    for token in (*CONTROL, *STRUCTURE, "<height_512>", "<width_64>", "<|image_level0_7|>", "<|image_level1_98303|>"):
        ids = text.encode(f"a {token} b")
        assert max(ids) < TEXT
        assert text.decode(ids) == f"a {token} b"
