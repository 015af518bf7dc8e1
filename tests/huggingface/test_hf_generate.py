"""generate(): the same answers as the pipeline's, in any batch and padding; what does nothing is refused."""

import copy

import pytest
import torch
from hf_cases import ENGINE, SIZE, asks, load_tiny, photo

from illume_fast.engine import RequestError, sample_seed
from illume_fast.huggingface import IllumeConfig, IllumeForConditionalGeneration
from illume_fast.model.vocab import IMAGE_PLACEHOLDER
from illume_fast.pipeline import IllumePipeline

WORDS = ["a red heart", "a dog", "a small dog near the tree"]


@pytest.fixture(scope="module")
def pipe(tiny):
    return IllumePipeline(tiny[0].checkpoint, ENGINE)


def prompts(processor, words=WORDS, size=SIZE, **options):
    return processor(text=[asks(one) for one in words], resolution=size, **options)


def drawn(processor, rows):
    return [codes for row in rows for codes in processor.parse_text_image(row)[1]]


def assert_same_codes(a, b):
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert (one.height, one.width) == (other.height, other.width)
        assert all(torch.equal(x, y) for x, y in zip(one.levels, other.levels, strict=True))


@pytest.mark.parametrize("settings", [
    {}, {"guidance_scale": 3.0}, {"guidance_scale": 1.0, "top_k": 5}, {"temperature": 0.7, "top_p": 0.9},
])  # fmt: skip
def test_pictures_are_those_of_the_pipeline(tiny, pipe, settings):
    model, processor = tiny
    out = model.generate(**prompts(processor), generation_mode="image", seed=4, **settings)
    want = pipe(WORDS, seed=4, output_type="codes", **settings)
    assert_same_codes(drawn(processor, out), want.images)
    pictures = processor.post_process_images(out)
    assert [p.tobytes() for p in pictures] == [p.tobytes() for p in pipe(WORDS, seed=4, **settings).images]


def test_prompts_come_back_before_the_answers(tiny):
    model, processor = tiny
    given = prompts(processor)
    out = model.generate(**given, generation_mode="image", seed=0)
    length = given["input_ids"].shape[1]
    assert torch.equal(out[:, :length], given["input_ids"])
    tag = model.core.config.vocab.size_tag(*SIZE)
    assert out[:, length : length + 2].tolist() == [tag] * 3
    assert out.dtype == torch.int64


@pytest.mark.parametrize("mode", ["image", "text"])
def test_padding_and_company_change_nothing(tiny, mode):
    model, processor = tiny
    settings = {"generation_mode": mode, "seed": 3, "temperature": 1.0}
    left = model.generate(**prompts(processor), **settings)
    right = model.generate(**prompts(processor, padding_side="right"), **settings)
    assert torch.equal(left, right)
    length = prompts(processor)["input_ids"].shape[1]
    for i, words in enumerate(WORDS):
        one = prompts(processor, [words])
        alone = model.generate(**one, **settings)[0, one["input_ids"].shape[1] :]
        company = left[i, length:]
        assert torch.equal(alone, company[: len(alone)])
        assert (company[len(alone) :] == model.core.config.vocab.pad).all()


def test_words_are_those_of_the_pipeline(tiny, pipe):
    model, processor = tiny
    question, picture = "what is this?", photo(1, 40, 52)
    chat = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": f"\n{question}"}]}
    ]
    given = processor(text=chat)
    out = model.generate(**given, max_new_tokens=9)
    answer = processor.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.strip() == pipe.chat(question, picture, max_new_tokens=9)
    sampled = model.generate(**given, max_new_tokens=9, do_sample=True, seed=2)
    assert torch.equal(sampled, model.generate(**given, max_new_tokens=9, temperature=1.0, seed=2))
    assert torch.equal(out, model.generate(**given, max_new_tokens=9, do_sample=False))


def test_edits_are_those_of_the_pipeline(tiny, pipe):
    model, processor = tiny
    source = photo(2, 30, 50)
    framed = processor.transform_image_nearest_resolution_ratio(source)
    size = framed.height, framed.width
    text = "{resolution_tag}<image>\nPlease edit the image according to the instruction: make the sky green\n"
    given = processor(text=[{"role": "user", "content": text}], images=framed, resolution=size)
    out = model.generate(**given, generation_mode="image", target_image_resolution=size, seed=6)
    want = pipe.edit(source, "make the sky green", seed=6)
    (picture,) = processor.post_process_images(out, target_sizes=[(source.height, source.width)])
    assert picture.tobytes() == want.images[0].tobytes()
    back = processor.unpad_and_resize_back(processor.post_process_images(out)[0], source.height, source.width)
    assert back.tobytes() == picture.tobytes()


def test_several_samples_and_seeds(tiny):
    model, processor = tiny
    given = prompts(processor, WORDS[:2])
    settings = {"generation_mode": "image", "num_return_sequences": 3}
    many = model.generate(**given, **settings, seed=[5, 6])
    assert len({tuple(row) for row in many.tolist()}) == 6
    one = model.generate(**prompts(processor, WORDS[1:2]), generation_mode="image", seed=sample_seed(6, 2))
    width = one.shape[1] - prompts(processor, WORDS[1:2])["input_ids"].shape[1]
    assert torch.equal(one[0, -width:], many[5, -width:])
    made = [model.generate(**given, **settings, generator=torch.Generator().manual_seed(8)) for _ in range(2)]
    assert torch.equal(*made)
    each = [torch.Generator().manual_seed(i) for i in (1, 1, 2, 3, 1, 4)]
    rows = model.generate(**given, **settings, generator=each)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    with pytest.raises(ValueError, match=r"generator: 2 given for 6 answers \(2 prompts, 3 each\)"):
        model.generate(**given, **settings, generator=each[:2])
    with pytest.raises(ValueError, match="seed: 3 given for 2 prompts"):
        model.generate(**given, **settings, seed=[1, 2, 3])


def test_sizes(tiny):
    model, processor = tiny
    vocab = model.core.config.vocab
    wide = (32, 64)
    given = prompts(processor, WORDS[:2], size=wide)
    by_argument = model.generate(**given, generation_mode="image", target_image_resolution=wide, seed=1)
    tagged = torch.cat([given["input_ids"], torch.tensor([vocab.size_tag(*wide)] * 2)], 1)
    mask = torch.cat([given["attention_mask"], torch.ones(2, 2, dtype=torch.int64)], 1)
    assert torch.equal(by_argument, model.generate(tagged, mask, generation_mode="image", seed=1))
    assert drawn(processor, by_argument)[0].width == 64
    with pytest.raises(ValueError, match="target_image_resolution 32x32 differs from the prompt's tag 32x64"):
        model.generate(tagged, mask, generation_mode="image", target_image_resolution=SIZE)
    with pytest.raises(ValueError, match="size 48x48 is not supported; allowed are 32x32, 32x64"):
        model.generate(**given, generation_mode="image", target_image_resolution=(48, 48))


def test_negative_prompts(tiny, pipe):
    model, processor = tiny
    given = prompts(processor, WORDS[:2])
    settings = {"generation_mode": "image", "guidance_scale": 2.5, "seed": 9}
    away = prompts(processor, ["the grass"])
    out = model.generate(
        **given, **settings, negative_image_prompt_ids=away["input_ids"],
        negative_image_prompt_attention_mask=away["attention_mask"],
    )  # fmt: skip
    want = pipe(WORDS[:2], guidance_scale=2.5, seed=9, negative_prompt="the grass", output_type="codes")
    assert_same_codes(drawn(processor, out), want.images)
    own = torch.tensor([pipe.tasks.chat.generate_anything(SIZE)])
    plain = model.generate(**given, **settings)
    assert torch.equal(plain, model.generate(**given, **settings, negative_image_prompt_ids=own))
    with pytest.raises(ValueError, match="3 rows for 2 prompts"):
        model.generate(**given, **settings, negative_image_prompt_ids=own.expand(3, -1))
    hole = torch.tensor([[IMAGE_PLACEHOLDER, *pipe.tasks.chat.generate_anything(SIZE)]])
    with pytest.raises(ValueError, match="1 image placeholders, but row 0 has 0 pictures"):
        model.generate(**given, **settings, negative_image_prompt_ids=hole)
    with pytest.raises(ValueError, match="ends with another size than 32x64"):
        model.generate(**given, **settings, negative_image_prompt_ids=own, target_image_resolution=(32, 64))


def test_each_level_has_its_own_settings(tiny):
    model, processor = tiny
    given = prompts(processor)
    greedy = model.generate(**given, generation_mode="image", temperature=0.0, seed=0)
    same = model.generate(
        **given, generation_mode="image", image_semantic_temperature=0.0, image_pixel_top_k=1, seed=5,
    )  # fmt: skip
    assert torch.equal(greedy, same)
    half = model.generate(**given, generation_mode="image", temperature=0.0, image_pixel_temperature=1.0, seed=5)
    for a, b in zip(drawn(processor, greedy), drawn(processor, half), strict=True):
        assert torch.equal(a.semantic, b.semantic)
        assert not torch.equal(a.pixel, b.pixel)


@pytest.mark.parametrize("settings, message", [
    ({"generation_mode": "video"}, "'video' is not known; allowed are 'text', 'image', 'interleaved'"),
    ({"guidance_scale": 2.0, "image_pixel_top_k": 3}, "guidance_scale, image_pixel_top_k would do nothing with text"),
    ({"generation_mode": "image", "max_new_tokens": 3}, "max_new_tokens would do nothing with image"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ({"num_return_sequences": 0}, "num_return_sequences must be at least 1"),
    ({"temperature": -1.0}, "temperature must be 0"),
    ({"temperature": float("nan")}, "temperature must be 0"),
    ({"top_p": 1.5}, "top_p must lie in"),
    ({"generation_mode": "image", "guidance_scale": float("inf")}, "guidance must be a finite number"),
    ({"do_sample": False, "temperature": 1.0}, "do_sample=False draws greedily"),
    ({"do_sample": True, "temperature": 0.0}, "do_sample=True at temperature 0"),
    ({"seed": -1}, "seed must lie in"),
    ({"seed": 1, "generator": torch.Generator()}, "a seed or a generator, not both"),
    ({"images": [], "pixel_values": []}, "two names of one argument"),
    ({"pixel_values": [torch.zeros(3, 32, 32)]}, "0 image placeholders, but 1 pictures"),
    ({"generation_mode": "image", "negative_image_prompt_attention_mask": torch.ones(1, 1)}, "would do nothing"),
])  # fmt: skip
def test_settings_out_of_range(tiny, settings, message):
    model, processor = tiny
    with pytest.raises(ValueError, match=message):
        model.generate(**{**prompts(processor), **settings})


def test_batches_that_cannot_be(tiny):
    model, _ = tiny
    ids, mask = torch.full((2, 4), 5), torch.ones(2, 4)
    for change, message in (
        ((0, slice(1, 2)), "row 0 must be padded on one side"),
        ((1, slice(0, 4)), "row 1 is all padding"),
        ((1, [0, 3]), "row 1 must be padded on one side"),
    ):
        wrong = mask.clone()
        wrong[change] = 0
        with pytest.raises(ValueError, match=message):
            model.generate(ids, wrong)
    with pytest.raises(ValueError, match=r"must have the shape of input_ids \[2, 4\]"):
        model.generate(ids, mask[:1])
    with pytest.raises(ValueError, match=r"expected integers \[B, T\]"):
        model.generate(ids.float())
    with pytest.raises(ValueError, match="input_ids are needed"):
        model.generate()
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_beams'"):
        model.generate(ids, num_beams=2)
    with pytest.raises(RequestError, match="holds id 99999"):
        model.generate(torch.full((1, 4), 99999))
    with pytest.raises(ValueError, match=r"expected floats \[3, H, W\]"):
        model.generate(torch.tensor([[IMAGE_PLACEHOLDER, 1]]), pixel_values=[torch.zeros(4, 32, 32)])


def test_several_pictures_have_no_empty_prompt(tiny):
    model, processor = tiny
    given = processor(text="<image> <image> draw", images=[photo(0), photo(1)])
    with pytest.raises(ValueError, match="row 0 has 2 pictures, for which there is no empty prompt"):
        model.generate(**given, generation_mode="image")
    assert len(drawn(processor, model.generate(**given, generation_mode="image", guidance_scale=1.0, seed=0))) == 1


def test_changed_weights_and_precision_are_noticed(tiny_folder):
    model, processor = load_tiny(tiny_folder)
    given = prompts(processor, WORDS[:1])
    settings = {"generation_mode": "image", "temperature": 0.0, "seed": 0}
    before = model.generate(**given, **settings)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-3.0)
    after = model.generate(**given, **settings)
    assert not torch.equal(before, after)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.div_(-3.0)
    assert torch.equal(model.generate(**given, **settings), before)
    model.to(torch.bfloat16)
    assert model.generate(**given, **settings).shape == before.shape
    assert model.engine.dtype == torch.bfloat16


def test_a_model_made_from_its_config(tiny_folder, tiny):
    config = tiny[0].config
    fresh = IllumeForConditionalGeneration(IllumeConfig(config.checkpoint))
    given = prompts(tiny[1], WORDS[:1])
    with pytest.raises(ValueError, match="came without a tokenizer"):
        fresh.generate(**given)
    fresh.tokenizer = tiny_folder / "tokenizer.json"
    fresh.engine_config = ENGINE
    assert fresh.eval().generate(**given, generation_mode="image", seed=0).shape[0] == 1


def test_a_copy_of_a_model_that_has_drawn_is_one_of_its_own(tiny_folder):
    model, processor = load_tiny(tiny_folder)
    given = prompts(processor)
    drawn_first = model.generate(**given, generation_mode="image", seed=4)
    other = copy.deepcopy(model)
    assert torch.equal(other.generate(**given, generation_mode="image", seed=4), drawn_first)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    assert torch.equal(other.generate(**given, generation_mode="image", seed=4), drawn_first)


def test_a_batch_without_rows_is_refused(tiny):
    with pytest.raises(ValueError, match=r"expected integers \[B, T\] of a row at least"):
        tiny[0].generate(torch.zeros(0, 4, dtype=torch.int64))
