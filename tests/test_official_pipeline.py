"""A published language model at work: alone it answers, with its tokenizer's folder it draws as well."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from official_folder import vision_sizes, write_tiny_official
from PIL import Image

from illume_fast.cli import main
from illume_fast.convert import convert_tokenizer
from illume_fast.decoders import open_decoder
from illume_fast.decoding import Decoder
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_config
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.pipeline import Draw, IllumePipeline

SIZE = (64, 64)
PICTURE = Image.new("RGB", (70, 60), "red")


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    return write_tiny_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """The folder of a converted vision tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    sizes = tokenizer_sizes(vision_sizes(), "here")
    torch.manual_seed(1)
    torch.save({"model": DualViTok(sizes).state_dict()}, folder / "pytorch_model.bin")
    convert_tokenizer(folder / "pytorch_model.bin", folder / "converted", sizes=sizes)
    return folder / "converted"


def small(checkpoint: Checkpoint, decoder: Decoder | None = None) -> IllumePipeline:
    """A pipeline that draws one small size, for speed."""
    generation = replace(checkpoint.config.generation, sizes=(SIZE,), max_answer=8)
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, generation=generation))
    return IllumePipeline(checkpoint, EngineConfig(max_batch=2, cache_tokens=4096), decoder)


@pytest.fixture(scope="module")
def alone(official) -> IllumePipeline:
    return small(load_checkpoint(official))


def test_it_answers_without_a_tokenizer(alone):
    assert isinstance(alone.chat("What is this?", PICTURE, max_new_tokens=4), str)


@pytest.mark.parametrize(
    "use",
    [
        lambda pipe: pipe("a red heart"),
        lambda pipe: pipe("make it blue", PICTURE),
        lambda pipe: pipe.decode([next(pipe.generate_stream([Draw(prompt="a")], decode=False)).codes]),
    ],
)
def test_it_does_not_draw_without_a_tokenizer(alone, use: Callable[[IllumePipeline], object]):
    with pytest.raises(CheckpointError, match=r"loaded without a vision tokenizer.*`illume-fast convert` makes"):
        use(alone)


def test_codes_alone_need_no_tokenizer(alone):
    (done,) = alone.generate_stream([Draw(prompt="a red heart")], decode=False)
    assert done.error is None
    assert [tuple(level.shape) for level in done.codes.levels] == [(2, 2), (4, 4)]


def test_a_drawing_is_refused_before_it_is_drawn(alone):
    steps = []
    (done,) = alone.generate_stream([Draw(prompt="a red heart")], on_step=steps.append)
    assert isinstance(done.error, CheckpointError)
    assert not steps


def test_it_draws_with_one(official, tokenizer):
    loaded = load_checkpoint(official, vision_tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match=r"give decoder=FOLDER .* or decoder='pixel'"):
        small(loaded)("a red heart")
    pipe = small(loaded, open_decoder(loaded, "pixel"))
    drawn = pipe("a red heart", seed=3, output_type="pt").images
    assert drawn.shape == (1, 3, *SIZE)
    assert torch.equal(drawn, pipe("a red heart", seed=3, output_type="pt").images)
    assert pipe.edit(PICTURE, "make it blue").images[0].size == PICTURE.size


def test_the_pipeline_takes_the_folder(official, tokenizer):
    pipe = IllumePipeline.from_pretrained(official, vision_tokenizer=tokenizer, engine=EngineConfig(max_batch=1))
    assert pipe.checkpoint.vision_tokenizer is not None
    assert pipe.sizes == read_config(official).generation.sizes


def test_a_tokenizer_of_other_sizes(official, tokenizer, tmp_path):
    sizes = vision_sizes()
    sizes["pixel_quantizer"]["codebook_size"] += 1
    other = tokenizer_sizes(sizes, "here")
    torch.save(DualViTok(other).state_dict(), tmp_path / "file.bin")
    convert_tokenizer(tmp_path / "file.bin", tmp_path / "other", sizes=other)
    with pytest.raises(
        CheckpointError, match=r"does not go with it: .*level 1 has 192 ids in the vocabulary, 193 codes"
    ):
        load_checkpoint(official, vision_tokenizer=tmp_path / "other")


def test_a_tokenizer_where_there_is_one_or_where_none_is(official, tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="has a vision tokenizer of its own; leave out vision_tokenizer"):
        load_checkpoint("demo", vision_tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="describes no vision tokenizer; make its folder with"):
        load_checkpoint(official, vision_tokenizer=official)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_checkpoint(official, vision_tokenizer=tmp_path)


def test_the_command_line(official, tmp_path, capsys):
    arguments = ["generate", "a red heart", "--model", str(official), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "loaded without a vision tokenizer" in capsys.readouterr().err
    assert main(["chat", "What is this?", "--model", str(official), "--max-tokens", "3"]) == 0
