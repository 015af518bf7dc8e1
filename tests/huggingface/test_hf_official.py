"""A folder in the published layout through the Auto classes: read, answered, saved as ours."""

import json

import pytest
import torch
from hf_cases import ENGINE, photo
from official_folder import write_tiny_official
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from illume_fast.huggingface import (
    IllumeConfig,
    IllumeForConditionalGeneration,
    IllumeProcessor,
    IllumeQwen2Config,
    IllumeQwen2ForCausalLM,
)
from illume_fast.model.checkpoint import read_config


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_tiny_official(tmp_path_factory.mktemp("official"))


def test_the_published_config_stays_as_it_is(official):
    config = AutoConfig.from_pretrained(official)
    assert type(config) is IllumeQwen2Config
    assert config.checkpoint == read_config(official)
    published = json.loads((official / "config.json").read_text())
    kept = config.to_dict()
    assert {key: kept[key] for key in published if key != "torch_dtype"} == {
        key: value for key, value in published.items() if key != "torch_dtype"
    }
    with pytest.raises(ValueError, match=r"read it with from_pretrained\(folder\)"):
        IllumeQwen2Config().vocab_size  # noqa: B018


def test_it_reads_pictures_and_answers(official, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(official, dtype=torch.float32, engine=ENGINE)
    assert type(model) is IllumeQwen2ForCausalLM
    assert model.vision_tokenizer is None
    processor = AutoProcessor.from_pretrained(official)
    given = processor(text=[{"role": "user", "content": "<image>\na dog?"}], images=photo(1, 60, 40))
    out = model.generate(**given, max_new_tokens=4)
    assert out.shape[1] > given["input_ids"].shape[1]
    model.save_pretrained(tmp_path / "ours")
    again = IllumeForConditionalGeneration.from_pretrained(tmp_path / "ours", engine=ENGINE)
    assert type(again.config) is IllumeConfig
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    same = IllumeProcessor.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.generate(**given, max_new_tokens=4), out)
    assert same.batch_decode(out) == processor.batch_decode(out)


def test_the_general_class_reads_it_as_well(official):
    model = IllumeForConditionalGeneration.from_pretrained(official, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.checkpoint.model == read_config(official).model
