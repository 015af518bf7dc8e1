"""IllumePipeline: what can be asked, what comes back, and what is refused."""

import pytest
import torch
from PIL import Image
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import ImageGrid, image_grid
from illume_fast.engine import EngineConfig, RequestError, sample_seed
from illume_fast.model.checkpoint import CheckpointError, save_checkpoint
from illume_fast.model.presets import demo
from illume_fast.model.vocab import illume_plus_vocab
from illume_fast.pipeline import Ask, Done, Draw, IllumePipeline
from illume_fast.tasks import picture_plan


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def photo(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


def test_one_prompt_gives_one_picture(pipe):
    out = pipe("a red heart", seed=3)
    assert [type(image) for image in out.images] == [Image.Image]
    assert out.images[0].size == (32, 32)
    assert out.seeds == [3]


def test_seeds_and_samples(pipe):
    many = pipe(["a red heart", "a dog"], num_images_per_prompt=3, seed=5)
    assert many.seeds == [sample_seed(5, k) for k in range(3)] * 2
    assert len({image.tobytes() for image in many.images}) == 6
    again = pipe("a dog", seed=many.seeds[5])
    assert same(again.images[0], many.images[5])
    apart = pipe(["a dog", "a red heart"], seed=[5, 6])
    assert same(apart.images[0], many.images[3])
    assert not same(apart.images[1], many.images[0])


def test_without_a_seed_pictures_follow_the_generator(pipe):
    first = pipe("a dog", generator=torch.Generator().manual_seed(1))
    again = pipe("a dog", generator=torch.Generator().manual_seed(1))
    assert first.seeds == again.seeds
    assert same(first.images[0], again.images[0])
    assert pipe("a dog").seeds != pipe("a dog").seeds


def test_size_and_output_types(pipe):
    settings = {"height": 32, "width": 64, "seed": 1, "num_images_per_prompt": 2}
    pil = pipe("a dog", **settings)
    assert [image.size for image in pil.images] == [(64, 32)] * 2
    tensor = pipe("a dog", output_type="pt", **settings).images
    assert (tensor.shape, tensor.dtype) == ((2, 3, 32, 64), torch.float32)
    assert 0 <= tensor.min() < tensor.max() <= 1
    codes = pipe("a dog", output_type="codes", **settings).images
    assert all(isinstance(c, ImageCodes) and c.pixel.shape == (4, 8) and c.semantic.shape == (2, 4) for c in codes)
    assert torch.equal(pipe.decode(codes).float() / 255, tensor)


def test_guidance_and_sampling_settings_are_heard(pipe):
    def codes(**settings):
        return pipe("a dog", seed=1, output_type="codes", **settings).images[0].pixel.tolist()

    assert codes(guidance_scale=2.0) == codes()
    assert codes(guidance_scale=1.0) != codes()
    assert codes(temperature=0.0) == codes(temperature=0.0, top_k=3)
    assert codes(top_k=1) == codes(temperature=0.0)
    assert codes(top_p=0.3) != codes()


def test_an_edit_comes_back_in_its_source_s_size(pipe):
    for source, frame in ((photo(1), (32, 32)), (photo(2, 300, 140), (64, 32)), (photo(3, 50, 90), (32, 32))):
        out = pipe.edit(source, "make the sky green", seed=1)
        assert out.images[0].size == source.size
        codes = pipe.edit(source, "make the sky green", seed=1, output_type="codes").images[0]
        assert (codes.width, codes.height) == frame


def test_an_edit_sees_its_source_and_its_instruction(pipe):
    def codes(source, words):
        return pipe.edit(source, words, seed=1, output_type="codes").images[0].pixel.tolist()

    first = codes(photo(1), "make the sky green")
    assert first == codes(photo(1), "make the sky green")
    assert first != codes(photo(2), "make the sky green")
    assert first != codes(photo(1), "make it a dog")


def test_words_of_marks_stay_words(pipe):
    for words in ("{resolution_tag} <image> {} {0}", "<|im_end|><start_of_image>", "💛\n\n"):
        assert len(pipe(words, seed=1).images) == 1


def test_chat(pipe):
    answer = pipe.chat("What is this?", photo(1))
    assert isinstance(answer, str)
    assert answer == pipe.chat("What is this?", [photo(1)])
    assert pipe.chat("Hello?", max_new_tokens=1) is not None
    hot = {pipe.chat("Hello?", temperature=5.0, seed=seed) for seed in range(4)}
    assert len(hot) > 1


def test_everything_in_one_stream(pipe):
    tasks = [
        Draw(prompt="a dog", seed=1, tag="draw"),
        Ask(prompt="What is this?", images=[photo(1), photo(2)], tag="ask"),
        Draw(prompt="make it green", image=photo(1), seed=2, samples=(1, 2), guidance=1.0, tag="edit"),
        Draw(prompt="a heart", size=(32, 64), seed=3, tag="wide"),
    ]
    done = {(d.task.tag, d.sample): d for d in pipe.generate_stream(tasks)}
    assert sorted(done) == [("ask", 0), ("draw", 0), ("edit", 1), ("edit", 2), ("wide", 0)]
    assert same(done["draw", 0].picture, pipe("a dog", seed=1).images[0])
    assert done["edit", 2].seed == sample_seed(2, 2)
    assert same(
        done["edit", 2].picture,
        pipe.edit(photo(1), "make it green", seed=sample_seed(2, 2), guidance_scale=1.0).images[0],
    )
    assert done["ask", 0].text == pipe.chat("What is this?", [photo(1), photo(2)])
    with pytest.raises(ValueError, match="not a picture"):
        done["ask", 0].picture  # noqa: B018


def test_a_picture_does_not_depend_on_the_batch(pipe, tmp_path):
    single = tiny_pipeline(tmp_path, EngineConfig(max_batch=1, cache_tokens=4096))
    prompts = [f"a dog number {i}" * (1 + i % 3) for i in range(7)]
    together = pipe(prompts, seed=4)
    for prompt, image in zip(prompts, together.images, strict=True):
        assert same(single(prompt, seed=4).images[0], image)


def test_codes_can_be_had_undecoded(pipe):
    done = list(pipe.generate_stream([Draw(prompt="a dog", samples=range(3))], decode=False))
    assert all(d.codes is not None and d.pixels is None for d in done)


def test_bad_tasks_fail_alone(pipe):
    tasks = [
        Draw(prompt="a dog", tag=0),
        Draw(prompt="  ", tag=1),
        Draw(prompt="a dog", size=(32, 33), tag=2),
        Draw(prompt="a dog", top_p=3.0, tag=3),
        Ask(prompt="a", max_new_tokens=0, tag=4),
        Draw(prompt="a dog " * 2000, tag=5),
        Draw(prompt="a heart", tag=6),
    ]
    done: dict[int, Done] = {d.task.tag: d for d in pipe.generate_stream(tasks)}
    assert [tag for tag in range(7) if done[tag].error is None] == [0, 6]
    said = {tag: str(done[tag].error) for tag in range(1, 6)}
    assert said[1] == "the prompt is empty"
    assert said[2] == "size 32x33 is not supported; allowed are 32x32, 32x64"
    assert "top_p must lie in [0, 1], got 3.0" in said[3]
    assert said[4] == "max_new_tokens must be at least 1, got 0"
    assert "the model takes 1024" in said[5]
    assert all("\n" not in line for line in said.values())


def test_damaged_pictures_fail_alone(pipe, tmp_path):
    photo(1, 300, 300).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    torn = Image.open(tmp_path / "torn.png")
    tasks = [Draw(prompt="a", image=torn, tag=0), Ask(prompt="b", images=[torn], tag=1), Draw(prompt="c", tag=2)]
    done = {d.task.tag: d for d in pipe.generate_stream(tasks)}
    assert [str(done[tag].error).startswith("the picture cannot be read: ") for tag in (0, 1)] == [True, True]
    assert done[2].error is None


def test_transparency_is_white(pipe):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    codes = [pipe.edit(i, "make it green", seed=1, output_type="codes").images[0].pixel for i in (clear, white)]
    assert torch.equal(*codes)


def test_plans_of_known_models():
    config = demo()
    grid = ImageGrid(64, 64, ((4, 4), (8, 8)))
    assert image_grid((64, 64), config.vision_tokenizer) == grid
    assert image_grid((64, 64), config.model.vision_tower) == grid
    plan = picture_plan(config.model.vocab, grid)
    assert (len(plan), len(plan.draws), plan.lead) == (98, 4 * 4 + 8 * 8, 2)
    assert plan.site[plan.draws].tolist() == [0] * 16 + [1] * 64
    assert [site.ranges for site in plan.sites] == [(level,) for level in config.model.vocab.levels]
    published = picture_plan(illume_plus_vocab(283175), ImageGrid(512, 512, ((18, 18), (32, 32))))
    assert (len(published), len(published.draws)) == (1404, 1348)


def test_a_saved_pipeline_draws_the_same(pipe, tmp_path):
    from_memory = pipe.checkpoint
    text = from_memory.tokenizer.read_text(encoding="utf-8")
    save_checkpoint(tmp_path / "saved", from_memory.config, from_memory.model, from_memory.vision_tokenizer, text)
    saved = IllumePipeline.from_pretrained(tmp_path / "saved", engine=EngineConfig(max_batch=2, cache_tokens=2048))
    assert saved.sizes == pipe.sizes == ((32, 32), (32, 64))
    assert same(saved("a dog", seed=1).images[0], pipe("a dog", seed=1).images[0])
    with pytest.raises(CheckpointError, match="there is no"):
        IllumePipeline.from_pretrained(tmp_path)


def test_only_bad_tasks(pipe):
    assert [str(d.error) for d in pipe.generate_stream([Draw(prompt="")])] == ["the prompt is empty"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "there is no prompt"),
        ({"seed": -1, "num_images_per_prompt": 2}, r"seed must lie in \[0, 2\*\*63\), got -1"),
        ({"height": 32}, "give both height and width"),
        ({"height": 512, "width": 512}, "size 512x512 is not supported; allowed are 32x32, 32x64"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"output_type": "np"}, "output_type 'np' is not known; allowed are 'pil', 'pt', 'codes'"),
        ({"seed": 1, "generator": torch.Generator()}, "a seed or a generator, not both"),
        ({"seed": [1, 2]}, "seed: 2 given for 1 prompts"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"guidance_scale": float("nan")}, "guidance must be a finite number"),
    ],
)
def test_calls_refuse_nonsense(pipe, settings, reason):
    with pytest.raises(InputError, match=reason):
        pipe(**{"prompt": "a dog", **settings})


def test_guidance_needs_a_model_that_learnt_the_unconditional_prompt(tmp_path):
    pipe = tiny_pipeline(tmp_path, has_unconditional=False)
    for asked in ({"negative_prompt": "a tree"}, {"guidance_from": 2}, {"guidance_until": 9}):
        with pytest.raises(InputError, match="leave out the negative prompt, guidance_from and guidance_until"):
            pipe("a dog", **asked)
    with pytest.raises(InputError, match="guidance 3: this model was trained without an unconditional prompt"):
        pipe("a dog", guidance_scale=3.0)
    assert same(pipe("a dog", seed=1).images[0], pipe("a dog", seed=1, guidance_scale=1.0).images[0])


def test_a_broken_model_is_reported_with_the_prompt(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    pipe.checkpoint.model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(RequestError, match="request 'a dog': no finite logit"):
        pipe("a dog")


def test_callback_sees_every_step(pipe):
    seen = []
    pipe("a dog", seed=1, num_images_per_prompt=2, callback_on_step_end=lambda *args: seen.append(args))
    # one for each code: the first is drawn from the prompt
    assert [step for _, step, _, _ in seen] == list(range(len(seen)))
    assert len(seen) == 2 * 2 + 4 * 4
    assert [left for _, _, left, _ in seen] == [2] * (len(seen) - 1) + [0]
    assert seen[0][0] is pipe
    assert seen[-1][3]["progress"].drawn == 2 * len(seen)


def test_negative_prompts_and_stretches_of_guidance(pipe):
    same = {"guidance_scale": 3.0, "seed": 1, "output_type": "codes"}
    words = ["a red heart", "a small dog near the tree"]

    def codes(**settings):
        return [c.pixel for c in pipe(words, **{**same, **settings}).images]

    plain, away = codes(), codes(negative_prompt="make the sky green")
    each = codes(negative_prompt=["make the sky green", "a red heart"])
    assert torch.equal(away[0], each[0])
    assert not all(torch.equal(a, b) for a, b in zip(plain, away, strict=True))
    assert not torch.equal(away[1], each[1])
    never = codes(guidance_until=0)
    assert all(torch.equal(a, b) for a, b in zip(never, codes(guidance_scale=1.0), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, codes(guidance_until=10_000), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, codes(guidance_until=8), strict=True))
    for unguided in ({"guidance_scale": 1.0}, {"guidance_until": 0}, {"guidance_from": 9, "guidance_until": 9}):
        with pytest.raises(InputError, match="a negative prompt does nothing without guidance; give guidance other"):
            codes(negative_prompt="a dog", **unguided)
    with pytest.raises(InputError, match="guidance_from 32: this picture has the steps 0 to 31"):
        codes(guidance_from=32)
    with pytest.raises(InputError, match="the negative prompt is empty"):
        codes(negative_prompt=" ")
    with pytest.raises(InputError, match="negative_prompt: 1 given for 2 prompts"):
        codes(negative_prompt=["a dog"])
    with pytest.raises(InputError, match="guidance_until 2 is before guidance_from 5"):
        codes(guidance_from=5, guidance_until=2)


def test_pictures_are_saved_with_how_they_were_made(pipe, tmp_path):
    out = pipe(["a dog", "a heart"], seed=[1, 2], guidance_scale=3.0, negative_prompt="a tree")
    paths = out.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    record = read_record(paths[1])
    assert (record["prompt"], record["seed"], record["guidance"], record["size"]) == ("a heart", 2, 3.0, "32x32")
    assert (record["negative_prompt"], record["temperature"]) == ("a tree", None)
    assert same(Image.open(paths[1]), out.images[1])
    with pytest.raises(InputError, match="only PIL pictures can be saved"):
        pipe("a dog", output_type="codes").save(tmp_path)
    turns = [{"role": "user", "content": [{"type": "image", "image": photo(1, 50, 20)}, {"type": "text", "text": "x"}]}]
    answer = pipe.converse(turns, answer="image")
    (path,) = answer.save(tmp_path, "answer")
    assert (path.name, Image.open(path).size) == ("answer.png", (50, 20))
    assert (read_record(path)["prompt"], read_record(path)["guidance"]) == ("x", pipe.tasks.generation.edit_guidance)


def test_pictures_are_read_anew_where_weights_have_changed(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    picture = Image.new("RGB", (32, 32), "red")
    before = pipe.chat("a red heart", picture)
    with torch.no_grad():
        pipe.checkpoint.model.model.mm_projector.projector_1[0].bias.add_(1.0)
    fresh = IllumePipeline(pipe.checkpoint)
    assert pipe.chat("a red heart", picture) == fresh.chat("a red heart", picture) != before
