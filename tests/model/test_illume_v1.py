"""ILLUME's preset: names, shapes and counts, and configurations that are refused."""

from dataclasses import replace

import pytest
import torch
from support import ROOT

from illume_fast.model.illume_v1 import IllumeV1Model
from illume_fast.model.presets import illume_7b
from illume_fast.model.semantic_tokenizer import SemanticTokenizer
from illume_fast.model.strict import ConfigError
from illume_fast.model.v1_config import IllumeV1CheckpointConfig
from illume_fast.model.vocab import structure_tokens

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

VICUNA_7B = 6_738_415_616
SIGLIP_SO400M = 412_987_248  # without the head that makes one vector of a picture
NEW_TOKENS = 1 + 3 + 16_384


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def seven() -> IllumeV1CheckpointConfig:
    return illume_7b()


def test_the_vocabulary(seven):
    vocab = seven.model.vocab
    assert vocab.rows == vocab.size == 32_000 + NEW_TOKENS
    assert (vocab.pad, vocab.im_start, vocab.im_end) == (32_000, 1, 2)
    assert dict(zip(structure_tokens(1), vocab.structure, strict=True)) == {
        "<start_of_image>": 32_001, "<end_of_image>": 32_002, "<end_of_line>": 32_003,
    }  # fmt: skip
    assert vocab.levels == ((32_004, 48_388),)
    assert not vocab.level_marks


def test_the_model_on_the_meta_device(seven, monkeypatch):
    # half a gigabyte that is thrown away at once
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    with torch.device("meta"):
        model, vision = IllumeV1Model(seven.model), SemanticTokenizer(seven.vision_tokenizer)
    adapter = 1152 * 4096 + 4096 + 4096 * 4096 + 4096
    assert count(model) == VICUNA_7B + 2 * NEW_TOKENS * 4096 + SIGLIP_SO400M + adapter
    assert count(vision.encoder) == SIGLIP_SO400M
    page = (ROOT / "docs/illume.md").read_text(encoding="utf-8")
    eyes = count(model.model.vision_tower) + adapter
    layers = count(model) - eyes - 2 * seven.model.vocab.rows * 4096
    for number in (layers, seven.model.vocab.rows * 4096, adapter, count(model), count(vision)):
        assert f"| {number:,} |".replace(",", " ") in page
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == [48_388, 4096]
    assert shapes["model.mm_projector.0.weight"] == [4096, 1152]
    assert shapes["model.mm_projector.2.weight"] == [4096, 4096]
    assert shapes["model.layers.31.mlp.down_proj.weight"] == [4096, 11_008]
    assert "model.layers.0.self_attn.q_proj.bias" not in shapes
    assert all(parameter.is_meta for parameter in model.parameters())
    assert list(vision.quantizer.frozen_codebook.shape) == [16_384, 32]


def test_configs_survive_json(seven):
    assert IllumeV1CheckpointConfig.from_dict(seven.to_dict()) == seven
    with pytest.raises(ConfigError, match="unknown keys colour"):
        IllumeV1CheckpointConfig.from_dict({**seven.to_dict(), "colour": 1})
    values = seven.to_dict()
    values["vision_tokenizer"]["encoder"]["settings"] = "siglip"
    with pytest.raises(ConfigError, match=r"EncoderConfig\.settings: expected an object, got str"):
        IllumeV1CheckpointConfig.from_dict(values)


def test_parts_that_do_not_go_together(seven):
    tokenizer, model = seven.vision_tokenizer, seven.model
    with pytest.raises(ConfigError, match="16384 ids of codes in the vocabulary, 8192 codes"):
        replace(seven, vision_tokenizer=replace(tokenizer, codebook_size=8192))
    other = replace(tokenizer.encoder, image_size=384)
    with pytest.raises(ConfigError, match="reading and drawing have the same encoder"):
        replace(seven, vision_tokenizer=replace(tokenizer, encoder=other))
    with pytest.raises(ConfigError, match=r"vocab_size 32000 differs from vocab\.rows 48388"):
        replace(model, decoder=replace(model.decoder, vocab_size=32_000))
    with pytest.raises(ConfigError, match="makes no pixels, so allowed is 'diffusion'"):
        replace(seven, generation=replace(seven.generation, decoder="pixel"))
    with pytest.raises(ValueError, match="pictures of this model have 512x512 pixels"):
        replace(seven, generation=replace(seven.generation, sizes=((256, 256),)))
