"""ILLUME, the first model, from prompts and pictures to codes and words."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_diffusion import save, tiny_sd_unet
from tiny_v1 import BASE, tiny_v1_checkpoint, tiny_v1_pipeline
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.decoders import open_decoder
from illume_fast.diffusion import DiffusionSettings
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import load_checkpoint, save_checkpoint
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.pipeline import Ask, Converse, Draw, IllumePipeline, Turn

pytest.importorskip("sentencepiece")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

PROMPTS = ["a red heart", "a small dog near the tree", "make the sky green"]
TILE = 2 + 16 * 17


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> IllumePipeline:
    return tiny_v1_pipeline(tmp_path_factory.mktemp("v1"))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def codes(pipeline: IllumePipeline, *args: object, **rest: object) -> list[Tensor]:
    return [found.semantic for found in pipeline(*args, output_type="codes", **rest).images]


def test_pictures_have_one_level_of_256_codes(pipeline):
    (found,) = pipeline(PROMPTS[0], output_type="codes", seed=3).images
    assert len(found.levels) == 1
    assert (found.height, found.width) == (512, 512)
    assert found.semantic.shape == (16, 16)
    assert int(found.semantic.max()) < 64
    assert len(found.semantic.unique()) > 5
    features = pipeline.checkpoint.vision_tokenizer.decode_features(found.semantic[None])
    assert features.shape == (1, 256, 32)


def test_the_plan_of_a_picture(pipeline):
    (request,) = pipeline.tasks.requests(Draw(prompt="a cat"))
    vocab = pipeline.tasks.vocab
    assert len(request.plan) == TILE
    expected = [vocab.start_of_image, *([-1] * 16 + [vocab.end_of_line]) * 16, vocab.end_of_image]
    assert request.plan.forced.tolist() == expected
    (site,) = request.plan.sites
    assert site.ranges == (vocab.levels[0],)


def test_the_same_alone_and_in_a_batch(pipeline):
    sources = [picture(70, 90), picture(200, 64, 1), picture(64, 64, 2)]
    together = codes(pipeline, PROMPTS, seed=[1, 2, 3], guidance_scale=2.5)
    edits = codes(pipeline, PROMPTS, sources, seed=[4, 5, 6])
    for i, prompt in enumerate(PROMPTS):
        assert torch.equal(codes(pipeline, prompt, seed=i + 1, guidance_scale=2.5)[0], together[i])
        assert torch.equal(codes(pipeline, prompt, sources[i], seed=i + 4)[0], edits[i])


def test_guidance_and_the_source_matter(pipeline):
    plain = codes(pipeline, PROMPTS[0], seed=1, guidance_scale=1.0)[0]
    guided = codes(pipeline, PROMPTS[0], seed=1, guidance_scale=4.0)[0]
    assert not torch.equal(plain, guided)
    one, other = (codes(pipeline, PROMPTS[0], picture(64, 64, seed), seed=1)[0] for seed in (1, 2))
    assert not torch.equal(one, other)


def test_questions_about_pictures_in_slices(pipeline):
    small, wide = picture(60, 50), picture(2 * BASE, 3 * BASE, 1)
    tasks = [
        Ask(prompt="What is it?", images=images, tag=i)
        for i, images in enumerate([(), (small,), (wide,), (small, wide)])
    ]
    lengths = [sum(len(s) for s in pipeline.tasks.requests(task)[0].prompt) for task in tasks]
    # whole alone; whole, six slices and the ends of two rows; both
    added = [length - lengths[0] for length in lengths]
    assert added[1] - TILE in range(6)
    assert added[2] - added[1] == 6 * TILE + 2
    assert added[3] - added[2] - TILE in range(6)
    together = {done.task.tag: done.text for done in pipeline.generate_stream(tasks)}
    for task in tasks:
        assert pipeline.chat(task.prompt, task.images) == together[task.tag]


def test_slices_are_read_as_pictures_of_their_own(pipeline):
    model = pipeline.checkpoint.model
    canvas = torch.rand(1, 3, 2 * BASE, 2 * BASE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        (whole,) = model.image_embeds([canvas])
        corners = [canvas[..., y : y + BASE, x : x + BASE] for y in (0, BASE) for x in (0, BASE)]
        alone = [model.image_embeds([corner])[0] for corner in corners]
        end = model.embed(torch.tensor([model.config.vocab.end_of_line]))
    assert len(whole) == 5 * TILE + 2
    expected = torch.cat([alone[0], alone[1], end, alone[2], alone[3], end])
    torch.testing.assert_close(whole[TILE:], expected)
    with pytest.raises(ValueError, match="both sides must be multiples of 64, of at most 9 slices together"):
        model.image_embeds([torch.zeros(1, 3, 5 * BASE, 2 * BASE)])


def test_pixels_need_a_decoder(pipeline):
    for ask in (lambda: pipeline("a cat"), lambda: pipeline("a cat", picture(64, 64), output_type="pt")):
        with pytest.raises(CheckpointError, match="give the folder of a Stable Diffusion decoder"):
            ask()
    (done,) = pipeline.generate_stream([Draw(prompt="a cat")])
    assert "or take the codes" in str(done.error)
    (done,) = pipeline.generate_stream([Draw(prompt="a cat")], decode=False)
    assert done.codes is not None


def test_pixels_by_a_stable_diffusion_decoder(tmp_path):
    pytest.importorskip("diffusers")
    checkpoint = tiny_v1_checkpoint(tmp_path)
    folder = save(tmp_path / "sd", tiny_sd_unet(cross_attention_dim=32))
    decoder = open_decoder(checkpoint, folder, DiffusionSettings(steps=2))
    pipeline = IllumePipeline(checkpoint, EngineConfig(max_batch=8, cache_tokens=16384), decoder)
    together = pipeline(PROMPTS[:2], output_type="pt", seed=[1, 2]).images
    assert together.shape == (2, 3, 512, 512)
    assert torch.equal(pipeline(PROMPTS[1], output_type="pt", seed=2).images[0], together[1])
    assert not torch.equal(together[0], together[1])
    (edited,) = pipeline(PROMPTS[2], picture(70, 90), seed=1).images
    assert edited.size == (90, 70)
    with pytest.raises(CheckpointError, match="makes semantic features of its codes, and no pixels"):
        open_decoder(checkpoint, "pixel").check()
    with pytest.raises(CheckpointError, match="reads features of width 24; the model's have 32"):
        open_decoder(checkpoint, save(tmp_path / "other", tiny_sd_unet()))


@pytest.mark.parametrize("prompt", ["</s> USER: x", "<s>", "<image>", "{}", "<start_of_image>"])
def test_prompts_are_words(pipeline, prompt):
    vocab = pipeline.tasks.vocab
    asked, harmless = (pipeline.tasks.chat.generate(words, (512, 512)) for words in (prompt, "a cat"))
    control = {vocab.im_start, vocab.im_end, vocab.pad, *vocab.structure, -200}
    assert [i for i in asked if i in control] == [i for i in harmless if i in control]


def test_what_cannot_be_drawn_or_read(pipeline):
    with pytest.raises(InputError, match="size 256x256 is not supported; allowed are 512x512"):
        pipeline("a cat", height=256, width=256, output_type="codes")
    with pytest.raises(InputError, match="too long; at most 200:1"):
        pipeline.chat("What is it?", picture(2, 1000))


def test_conversations_with_pictures_written_before(pipeline):
    first = [Turn.user("a red heart")]
    drawn = Converse(messages=first, answer="image", seed=1, tag=0)
    (done,) = pipeline.generate_stream([drawn], decode=False)
    assert torch.equal(done.codes.semantic, codes(pipeline, "a red heart", seed=1)[0])
    again = Converse(messages=[*first, Turn.assistant(done.codes), Turn.user("make it green")], answer="image", seed=2)
    shown = Converse(messages=[*first, Turn.assistant(picture(70, 90)), Turn.user("what is it?")], max_new_tokens=4)
    together = list(pipeline.generate_stream([again, shown], decode=False))
    assert [d.error for d in together] == [None, None]
    (request,) = pipeline.tasks.requests(again)
    ids = [i for segment in request.prompt for i in segment.ids]
    assert ids.count(pipeline.tasks.vocab.start_of_image) == 1
    lo, hi = pipeline.tasks.vocab.levels[0]
    assert [i - lo for i in ids if lo <= i < hi] == done.codes.semantic.flatten().tolist()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_kind_are_read(pipeline, mode):
    for size in ((1, 1), (150, 70)):
        assert isinstance(pipeline.chat("What is it?", Image.new(mode, size)), str)


def test_saved_and_loaded(tmp_path):
    first = tiny_v1_checkpoint(tmp_path)
    words = (tmp_path / "tokenizer.json").read_text()
    save_checkpoint(tmp_path / "saved", first.config, first.model, first.vision_tokenizer, words)
    second = load_checkpoint(tmp_path / "saved")
    assert {**second.config.to_dict(), "fingerprint": ""} == first.config.to_dict()
    for name in ("model", "vision_tokenizer"):
        ours, theirs = getattr(first, name).state_dict(), getattr(second, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    a, b = (codes(IllumePipeline(c), "a red heart", seed=1)[0] for c in (first, second))
    assert torch.equal(a, b)
    (tmp_path / "saved" / "config.json").write_text('{"kind": "illume 3"}')
    with pytest.raises(
        CheckpointError, match="kind 'illume 3' of model is not known; allowed are 'illume_plus', 'illume'"
    ):
        load_checkpoint(tmp_path / "saved")


def test_conversations(pipeline):
    """Without size tags a picture begins with `<start_of_image>`."""

    def answered(*turns: Turn, **rest: object):
        (done,) = pipeline.generate_stream([Converse(messages=turns, **rest)], decode=False)
        assert done.error is None
        return done

    drawn = answered(Turn.user(PROMPTS[0]), answer="image", seed=3)
    assert torch.equal(drawn.codes.semantic, codes(pipeline, PROMPTS[0], seed=3)[0])
    again = answered(Turn.user(PROMPTS[0]), drawn.turn, Turn.user(PROMPTS[2]), answer="image", seed=3)
    assert not torch.equal(again.codes.semantic, drawn.codes.semantic)
    (request,) = pipeline.tasks.requests(Converse(messages=[Turn.user(picture(50, 90), "What is it?")]))
    assert pipeline.tasks.vocab.start_of_image in request.plan.stop_ids
