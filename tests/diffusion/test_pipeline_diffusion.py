"""Pipelines that draw through a diffusion decoder: which one is used, seeds, failures, jobs and the command line."""

import json
import shutil

import pytest
import torch
from drawing_pipeline import write_model
from PIL import Image
from tiny_diffusion import save, tiny_unet

from illume_fast.cli import main
from illume_fast.data.errors import InputError
from illume_fast.decoding import DecodingQueue, PictureDecoder
from illume_fast.diffusion import DiffusionPictures, DiffusionSettings, SdxlPictures
from illume_fast.engine import EngineConfig, RequestError
from illume_fast.jobs.batch import generate_batch
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.pipeline import Draw, IllumePipeline

CHANNELS = 64
SETTINGS = DiffusionSettings(steps=2, guidance=1.5)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("decoder"), tiny_unet(in_channels=4 + CHANNELS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """A model whose config says that a diffusion decoder makes its pictures, and whose folder has none."""
    return write_model(tmp_path_factory.mktemp("lacking"), decoder="diffusion")


def load(name, **options):
    return IllumePipeline.from_pretrained(name, engine=EngineConfig(max_batch=4, cache_tokens=8192), **options)


@pytest.fixture(scope="module")
def pipe(model, decoder):
    return load(model, decoder=decoder, diffusion=SETTINGS)


def test_pictures_have_twice_the_size_and_are_those_of_their_codes_and_seeds(pipe):
    done = list(pipe.generate_stream([Draw(prompt="a red heart", seed=5, samples=range(2))]))
    assert all(d.pixels.shape == (3, 512, 512) for d in done)
    for one in done:
        assert torch.equal(one.pixels, pipe.decode([one.codes], [one.seed])[0])
    assert not torch.equal(pipe.decode([done[0].codes], [1]), pipe.decode([done[0].codes], [2]))
    maps = pipe.pictures.conditions([done[0].codes])
    alone = pipe.pictures.decoder(maps, num_inference_steps=2, guidance_scale=1.5, seed=done[0].seed)
    assert torch.equal(alone[0], done[0].pixels)


def test_edits_come_back_in_their_source_s_size(pipe):
    source = Image.new("RGB", (90, 60), "green")
    drafts = []
    made = pipe.edit(source, "make the sky green", seed=1, on_partial=drafts.append, partial_every=100).images[0]
    assert made.size == (90, 60)
    assert {draft.pixels.shape for draft in drafts} == {(3, 256, 256)}, "drafts are the pixel decoder's"


def test_codes_alone_are_not_decoded(pipe, lacking, monkeypatch):
    monkeypatch.setattr(pipe.pictures, "start", None)
    assert len(pipe("a red heart", seed=1, output_type="codes").images) == 1
    assert len(load(lacking)("a red heart", seed=1, output_type="codes").images) == 1


def test_decoding_goes_on_between_steps_of_the_engine(pipe):
    pictures = SdxlPictures(pipe.checkpoint.vision_tokenizer, pipe.pictures.decoder, DiffusionSettings(4, 1.0))
    one = IllumePipeline(pipe.checkpoint, EngineConfig(max_batch=1, cache_tokens=8192), pictures)
    unet, at, steps = pipe.pictures.decoder.unet, [], []
    hook = unet.register_forward_pre_hook(lambda module, given: at.append(len(steps)))
    tasks = [Draw(prompt="a red heart", seed=seed) for seed in (1, 2)]
    done = list(one.generate_stream(tasks, on_step=steps.append))
    hook.remove()
    assert at[1] < at[2] < at[3] < at[4] - 100, "of the first picture while the second is drawn"
    for d in done:
        assert torch.equal(d.pixels, one.decode([d.codes], [d.seed])[0])


def test_a_picture_that_fails_fails_alone(pipe, monkeypatch):
    maps = pipe.pictures.conditions
    made = []

    def poisoned(codes):
        made.append(len(codes))
        return maps(codes) * (float("nan") if len(made) == 2 else 1)

    monkeypatch.setattr(pipe.pictures, "conditions", poisoned)
    done = list(pipe.generate_stream([Draw(prompt="a red heart", seed=s, id=str(s)) for s in (1, 2, 3)]))
    assert [d.pixels is not None for d in done] == [True, False, True]
    assert isinstance(done[1].error, RequestError)
    assert "its picture could not be decoded: the diffusion decoder made values that are not finite" in str(
        done[1].error
    )


def test_of_a_group_that_fails_the_good_ones_are_made(model, decoder):
    pipe = load(model, decoder=decoder, diffusion=SETTINGS)
    pictures = pipe.pictures
    pictures.decoder._together = 2
    codes = pipe("a red heart", seed=1, output_type="codes", num_images_per_prompt=2).images
    maps, bad = pictures.conditions, codes[1]

    def poisoned(given):
        found = maps(given)
        found[[c is bad for c in given]] = float("nan")
        return found

    pictures.conditions = poisoned
    queue = DecodingQueue(pictures)
    done = {d.key: d for number, c in enumerate(codes) for d in queue.add(number, c, 7)}
    done |= {d.key: d for d in queue.flush()}
    assert done[0].error is None
    assert "not finite" in str(done[1].error)
    pictures.conditions = maps
    assert torch.equal(done[0].pixels, pipe.decode(codes[:1], [7])[0])


def test_the_pixel_decoder_never_stands_in_unasked(model, lacking, decoder):
    assert isinstance(load(model).pictures, PictureDecoder)
    assert isinstance(load(model, decoder="pixel").pictures, PictureDecoder)
    pipe = load(lacking)
    match = "pictures come from a diffusion decoder, which was not given: give decoder=FOLDER .* or decoder='pixel'"
    with pytest.raises(CheckpointError, match=match):
        pipe("a red heart", seed=1)
    with pytest.raises(CheckpointError, match=match):
        pipe.decode(pipe("a red heart", seed=1, output_type="codes").images)
    assert pipe.chat("a small dog", max_new_tokens=2) is not None
    assert isinstance(load(lacking, decoder="pixel").pictures, PictureDecoder)
    assert isinstance(load(lacking, decoder=decoder).pictures, DiffusionPictures)


def test_a_checkpoint_s_own_diffusion_decoder(lacking, decoder, tmp_path):
    whole = shutil.copytree(lacking, tmp_path / "whole")
    shutil.copytree(decoder, whole / "diffusion_decoder")
    assert isinstance(load(whole).pictures, DiffusionPictures)
    assert isinstance(load(whole, decoder="diffusion").pictures, DiffusionPictures)
    with pytest.raises(CheckpointError, match=r"decoder 'diffusion': there is no folder .*diffusion_decoder; give"):
        load(lacking, decoder="diffusion")


def test_decoders_that_do_not_fit(model, decoder, tmp_path):
    with pytest.raises(CheckpointError, match="decoder 'nowhere': there is no folder nowhere"):
        load(model, decoder="nowhere")
    with pytest.raises(CheckpointError, match="does not fit the model, which draws 64x64 with a code for 8 pixels"):
        load("demo", decoder=decoder)
    with pytest.raises(CheckpointError, match="in_channels is 16; expected 68"):
        load(model, decoder=save(tmp_path, tiny_unet()))


def test_settings_are_looked_at_before_anything_is_drawn(model, lacking, decoder):
    with pytest.raises(InputError, match="scheduler 'Euler' is not known"):
        load(model, decoder=decoder, diffusion=DiffusionSettings(2, scheduler="Euler"))
    with pytest.raises(InputError, match="PNDMScheduler takes no 2 steps"):
        load(model, decoder=decoder, diffusion=DiffusionSettings(2, scheduler="PNDMScheduler"))
    for settings in ({}, {"decoder": "pixel"}):
        with pytest.raises(InputError, match="diffusion settings were given, but the pixel decoder makes the pictures"):
            load(model, diffusion=SETTINGS, **settings)
    assert load(lacking, diffusion=SETTINGS).chat("a small dog", max_new_tokens=2) is not None


def test_jobs_write_down_what_made_a_picture(model, decoder, pipe, tmp_path):
    rest = {"model": str(model), "seed": 3}
    diffused = {"decoder": str(decoder), "diffusion_steps": 2, "diffusion_guidance": 1.5}
    assert generate_batch(["a red heart"], tmp_path, **rest, **diffused).drawn == 1
    assert generate_batch(["a red heart"], tmp_path, **rest, **diffused).kept == 1
    record = json.loads((tmp_path / "results.jsonl").read_text())
    expected = {"decoder": pipe.pictures.decoder.fingerprint, "diffusion_steps": 2, "diffusion_guidance": 1.5}
    assert expected.items() <= record.items()
    with Image.open(tmp_path / record["file"]) as picture:
        assert picture.size == (512, 512)
        assert picture.text["diffusion_steps"] == "2"
    with pytest.raises(InputError, match="made with diffusion_steps 2, not 3"):
        generate_batch(["a red heart"], tmp_path, **rest, **{**diffused, "diffusion_steps": 3})
    with pytest.raises(InputError, match=r"made with decoder .*, not .* EulerDiscreteScheduler"):
        generate_batch(["a red heart"], tmp_path, **rest, **diffused, diffusion_scheduler="EulerDiscreteScheduler")
    with pytest.raises(InputError, match=r"made with decoder .*, not without"):
        generate_batch(["a red heart"], tmp_path, **rest)
    with pytest.raises(InputError, match="a loaded pipeline has its decoder"):
        generate_batch(["a red heart"], tmp_path / "other", pipe, diffusion_steps=3)


def test_too_little_memory_for_the_decoder_is_told(model, decoder, tmp_path, monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("illume_fast.diffusion.sdxl.load_vae", full)
    with pytest.raises(InputError, match=r"out of memory loading the decoder of model .* on cpu"):
        generate_batch(["a red heart"], tmp_path, str(model), decoder=str(decoder))


def test_command_line(model, lacking, decoder, tmp_path, capsys):
    def run(*options):
        return main(["generate", "a red heart", "--out", str(tmp_path / "out"), *map(str, options)])

    assert run("--model", model, "--diffusion-steps", 3) == 2
    assert "--diffusion-steps: the pictures of model" in capsys.readouterr().err
    assert run("--model", model, "--decoder", decoder, "--diffusion-steps", 0) == 2
    assert "--diffusion-steps must be from 1 to 1000, got 0" in capsys.readouterr().err
    assert run("--model", model, "--diffusion-scheduler", "DDIMScheduler") == 2
    assert "--diffusion-scheduler: the pictures of model" in capsys.readouterr().err
    assert run("--model", model, "--decoder", decoder, "--diffusion-scheduler", "Wrong") == 2
    assert "Wrong" in capsys.readouterr().err
    assert run("--model", lacking) == 2
    assert "or decoder='pixel' for the vision tokenizer's own" in capsys.readouterr().err
    diffused = ("--diffusion-steps", 1, "--diffusion-guidance", 1, "--diffusion-scheduler", "DDIMScheduler")
    assert run("--model", lacking, "--decoder", decoder, *diffused) == 0
    with Image.open(tmp_path / "out" / "images" / "a_red_heart_0.png") as picture:
        assert picture.size == (512, 512)
