"""The official code's recorded models as the published files would lie on disk: converted, joined, loaded, and drawing
what the official code drew."""

import json
from dataclasses import replace

import pytest
import torch
from golden_vision import read_case, read_weights
from official_folder import describe, write_shards
from safetensors.torch import load_file

from illume_fast.convert import convert_model, convert_tokenizer
from illume_fast.data.sequence import encode_image
from illume_fast.decoders import open_decoder
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import load_checkpoint
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.pipeline import Draw, IllumePipeline


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """(the language model's folder, the tokenizer's `pytorch_model.bin`, the tokenizer's sizes)"""
    language, vision = golden("mllm_tiny"), golden("dualvitok_tiny")
    folder = tmp_path_factory.mktemp("published")
    config = json.loads((language / "config.json").read_text())
    describe(folder / "model", config, (language / "tokenizer.json").read_text(encoding="utf-8"))
    write_shards(folder / "model", load_file(language / "weights.safetensors"), 3)
    torch.save({"model": read_weights(vision)}, folder / "pytorch_model.bin")
    sizes = json.loads((vision / "config.json").read_text())["vq_model"]["config"]
    return folder / "model", folder / "pytorch_model.bin", tokenizer_sizes(sizes, "dualvitok_tiny")


@pytest.mark.parametrize("joined", [False, True], ids=["two folders", "one folder"])
def test_what_the_official_code_drew(published, golden, tmp_path, joined):
    model, file, sizes = published
    convert_tokenizer(file, tmp_path / "tokenizer", sizes=sizes)
    if joined:
        convert_model(model, tmp_path / "joined", tmp_path / "tokenizer")
        loaded = load_checkpoint(tmp_path / "joined")
    else:
        loaded = load_checkpoint(model, vision_tokenizer=tmp_path / "tokenizer")
    # the recorded pictures are those of a model of the first stages
    generation = replace(loaded.config.generation, sizes=((256, 256),))
    loaded = replace(loaded, config=replace(loaded.config, generation=generation))
    pipe = IllumePipeline(loaded, EngineConfig(max_batch=1, cache_tokens=4096), open_decoder(loaded, "pixel"))

    config, _, outputs = read_case(golden("generate_tiny"))
    run = config["runs"]["t2i"]
    caption = run["prompts"][0].split("the content of image is ")[1].removesuffix("\n")
    (done,) = pipe.generate_stream([Draw(prompt=caption, guidance=run["guidance"], temperature=0.0)])
    assert encode_image(done.codes, loaded.config.model.vocab).tolist() == outputs["t2i.generated_ids"][0, :-1].tolist()
    difference = done.pixels.permute(1, 2, 0).int() - outputs["t2i.0.image_u8"].int()
    assert difference.abs().max() <= 1
