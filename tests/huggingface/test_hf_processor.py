"""IllumeProcessor: exact ids, words that stay words, pictures in order, and answers taken apart again."""

import numpy
import pytest
import torch
from hf_cases import SIZE, asks, load_tiny, photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from illume_fast.data.chat import IMAGE_MARK
from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes, encode_image
from illume_fast.huggingface import IllumeProcessor
from illume_fast.model.vocab import IMAGE_PLACEHOLDER

LONGEST = "<|im_start|><|im_end|><|endoftext|><start_of_image><end_of_line><end_of_level1><height_32><|image_level0_3|>"


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny[1]


def codes(seed=0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    grids = ((size[0] // 16, size[1] // 16), (size[0] // 8, size[1] // 8))
    return ImageCodes(
        *size, tuple(torch.randint(0, n, g, generator=generator) for n, g in zip((16, 24), grids, strict=True))
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.levels, b.levels, strict=True))


def test_prompts_are_those_of_the_tasks(tiny, processor):
    chat = processor.chat
    drawing = processor(text=asks("a dog"), resolution=SIZE)["input_ids"][0].tolist()
    assert [*drawing, *chat.vocab.size_tag(*SIZE)] == chat.generate("a dog", SIZE)
    parts = [{"type": "image"}, {"type": "text", "text": "\nwhat is this?"}]
    by_parts = processor(text=[{"role": "user", "content": parts}], images=photo(0))
    by_mark = processor(text=[{"role": "user", "content": f"{IMAGE_MARK}\nwhat is this?"}], images=[photo(0)])
    assert by_parts["input_ids"][0].tolist() == by_mark["input_ids"][0].tolist() == chat.ask("what is this?")
    assert torch.equal(by_parts["pixel_values"][0], by_mark["pixel_values"][0])


def test_batches_are_padded_and_masked(processor):
    found = processor(text=[asks("a dog"), asks("a small dog near the tree")], resolution=SIZE)
    ids, mask = found["input_ids"], found["attention_mask"]
    assert ids.shape == mask.shape
    assert (ids[mask == 0] == processor.chat.vocab.pad).all()
    assert mask[0, 0] == 0
    right = processor(text=[asks("a dog"), asks("a small dog near the tree")], resolution=SIZE, padding_side="right")
    assert right["attention_mask"][0, -1] == 0
    assert torch.equal(right["input_ids"][0][right["attention_mask"][0] == 1], ids[0][mask[0] == 1])
    with pytest.raises(InputError, match="padding=False: the prompts differ in length"):
        processor(text=["a", "a b c"], padding=False)


def test_pictures_keep_their_order(processor):
    size = (40, 48)
    chats = [
        [{"role": "user", "content": "<image> <image>"}],
        [{"role": "user", "content": [{"type": "image", "image": photo(3, *size)}, {"type": "image"}]}],
    ]
    flat = processor(text=chats, images=[photo(1, *size), photo(2, *size), photo(4, *size)])["pixel_values"]
    nested = processor(text=chats, images=[[photo(1, *size), photo(2, *size)], [photo(4, *size)]])["pixel_values"]
    one_by_one = [processor(text="<image>", images=photo(i, *size))["pixel_values"][0] for i in (1, 2, 3, 4)]
    for found in (flat, nested):
        assert all(torch.equal(a, b) for a, b in zip(found, one_by_one, strict=True))
    assert flat[0].shape[:2] == (1, 3)
    assert -1 <= flat[0].min() < flat[0].max() <= 1


@pytest.mark.parametrize("picture", [
    Image.new("L", (1, 1)), Image.new("CMYK", (40, 30)), Image.new("P", (33, 70)), Image.new("I;16", (50, 50)),
    Image.new("LA", (64, 20)), Image.new("RGBA", (9, 9), (0, 0, 0, 0)),
])  # fmt: skip
def test_any_kind_of_picture(processor, picture):
    pixels = processor(text="<image>", images=picture)["pixel_values"][0]
    assert pixels.shape[1] == 3
    assert pixels.shape[2] % 8 == pixels.shape[3] % 8 == 0


@given(
    words=st.lists(
        st.sampled_from([IMAGE_MARK, "{resolution_tag}", "<|im", "_end|>", LONGEST])
        | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
    ).map("".join)
)
def test_words_of_a_conversation_stay_words(processor, words):
    chat = [{"role": "user", "content": [{"type": "text", "text": words + LONGEST}]}]
    found = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)[0]
    vocab = processor.chat.vocab
    assert found.max() < vocab.text_size
    assert IMAGE_PLACEHOLDER not in found
    assert (found == vocab.im_start).sum() == 3
    assert (found == vocab.im_end).sum() == 2


def test_bare_texts(processor):
    ids = processor(text="a red <image> heart", images=photo(0))["input_ids"][0].tolist()
    encode = processor.tokenizer.encode
    assert ids == [*encode("a red "), IMAGE_PLACEHOLDER, *encode(" heart")]
    for name in ("<|im_start|>", "<end_of_level0>", "<height_32>", "<|image_level1_23|>"):
        with pytest.raises(InputError, match="words never become control tokens"):
            processor(text=f"a {name} dog")
        token = processor.tokens.id(name)
        found = processor(text=f"a {name} dog", control_tokens=True)["input_ids"][0].tolist()
        assert found == [*encode("a "), token, *encode(" dog")]
    # names of no token of this vocabulary are words
    for name in ("<height_33>", "<|image_level1_24|>", "<|image_level7_0|>", "<end_of_level5>"):
        assert processor(text=name)["input_ids"][0].tolist() == encode(name)


def test_rendered_conversations(processor):
    picture = {"type": "image", "image": codes()}
    chat = [
        {"role": "system", "content": "You are a dog."},
        {
            "role": "user",
            "content": [{"type": "size", "height": 32, "width": 64}, {"type": "text", "text": " a red heart"}],
        },
        {"role": "assistant", "content": [picture]},
        {"role": "user", "content": "<image>make the sky green"},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    found = processor(text=text, images=photo(0))
    assert found["input_ids"].tolist() == processor(text=chat, images=photo(0))["input_ids"].tolist()
    named = processor(text=text + "", images=photo(0), control_tokens=True)
    assert named["input_ids"].tolist() == found["input_ids"].tolist()
    with pytest.raises(InputError, match=r"holds <\|im_start\|>"):
        processor(text=text + "more", images=photo(0))
    shown = [dict(m) for m in chat]
    shown[2] = {"role": "assistant", "content": processor.decode(encode_image(codes(), processor.chat.vocab))}
    rendered = render_jinja_template([shown], chat_template=processor.chat_template, add_generation_prompt=True)
    assert rendered[0][0] == text


@pytest.mark.parametrize("chat", [asks("a dog"), [*asks("x"), {"role": "assistant", "content": "a dog"}]])
@pytest.mark.parametrize("generation", [True, False])
def test_the_template_is_what_is_encoded(processor, chat, generation):
    chat = [{**m, "content": m["content"].replace("{resolution_tag}", "<height_32><width_32>")} for m in chat]
    rendered = render_jinja_template([chat], chat_template=processor.chat_template, add_generation_prompt=generation)
    text = rendered[0][0]
    parts = [{**m, "content": m["content"].replace("<height_32><width_32>", "{resolution_tag}")} for m in chat]
    assert processor.apply_chat_template(parts, add_generation_prompt=generation, resolution=SIZE) == text
    ids = processor.apply_chat_template(parts, add_generation_prompt=generation, resolution=SIZE, tokenize=True)
    assert ids.tolist() == processor(text=text, control_tokens=True)["input_ids"].tolist()


def test_dictionaries_of_templates(processor):
    chat = [{"role": "user", "content": [{"type": "image", "image": photo(1)}, {"type": "text", "text": "a dog?"}]}]
    found = processor.apply_chat_template([chat, chat], tokenize=True, return_dict=True, add_generation_prompt=True)
    assert found["input_ids"].shape[0] == len(found["pixel_values"]) == 2
    assert set(found) == set(processor.model_input_names)
    texts = processor.apply_chat_template([chat, chat])
    assert [str(one) for one in texts] == [str(texts[0])] * 2


@pytest.mark.parametrize("arguments, message", [
    ({}, "there is no text"),
    ({"text": []}, "there is no text"),
    ({"text": "<image>"}, "0 given for 1 places; each <image> needs one"),
    ({"text": "a dog", "images": [Image.new("RGB", (9, 9))]}, "1 given for 0 places"),
    ({"text": ["<image>", "a"], "images": [[], [Image.new("RGB", (9, 9))]]}, r"\[0, 1\] for texts with \[1, 0\]"),
    ({"text": "<image>", "images": ["x.png"]}, "expected PIL pictures, got str"),
    ({"text": "<image>", "images": Image.new("RGB", (30000, 10))}, "too long; at most 200:1"),
    ({"text": [{"role": "tool", "content": "a"}]}, "role 'tool' is not allowed"),
    ({"text": [{"role": "user"}]}, "expected a dict with 'role' and 'content'"),
    ({"text": [{"role": "user", "content": 3}]}, "must be a text or a list of parts"),
    ({"text": [{"role": "user", "content": [{"type": "video"}]}]}, "allowed types are 'text' with text"),
    ({"text": [{"role": "user", "content": [{"type": "image", "image": 3}]}]}, "must be a PIL picture, got int"),
    ({"text": [{"role": "user", "content": [{"type": "image", "path": "no.png"}]}]}, "picture no.png does not"),
    ({"text": [{"role": "user", "content": "{resolution_tag}"}]}, "needs a picture size"),
    ({"text": [{"role": "user", "content": "a\0"}]}, "message 0 has a NUL character"),
    ({"text": "a \ud800"}, "the text has a NUL character or half a surrogate pair"),
    ({"text": "a", "return_tensors": "np"}, "allowed is 'pt'"),
    ({"text": "a", "padding_side": "top"}, "allowed are 'left', 'right'"),
    ({"text": "a", "padding": "max_length"}, "padding 'max_length' is not supported; allowed are True, 'longest', F"),
    ({"text": 5}, "text: expected a text, a conversation, or a list of either, got 5"),
    ({"text": [5]}, "text: 5 is neither a text nor a conversation"),
    ({"text": {"role": "user", "content": "a"}}, "expected a text, a conversation, or a list of either, got {'role'"),
])  # fmt: skip
def test_what_the_processor_refuses(processor, arguments, message):
    with pytest.raises(InputError, match=message):
        processor(**arguments)


def test_answers_are_taken_apart(processor):
    vocab, a, b = processor.chat.vocab, codes(1), codes(2, (32, 64))
    words = processor.tokenizer.encode("a red heart")
    ids = [*words, *encode_image(a, vocab).tolist(), *words, *encode_image(b, vocab).tolist(), vocab.im_end, vocab.pad]
    for answer in (torch.tensor(ids), ids, processor.decode(ids)):
        text, found, parts = processor.parse_text_image(answer)
        assert text.startswith("a red heart<image>a red heart<image>")
        assert same(found[0], a)
        assert same(found[1], b)
        assert len(parts) >= 4
    assert processor.decode(ids, skip_special_tokens=True) == processor.decode(ids[:-2])
    assert processor.decode(ids).endswith("<|im_end|><|endoftext|>")
    assert processor.batch_decode(torch.tensor([words, words])) == ["a red heart"] * 2
    assert processor.parse_text_image(words, "[picture]") == ("a red heart", [], ["a red heart"])
    assert processor.decode(numpy.array(words)) == processor.decode(words) == "a red heart"
    assert processor.batch_decode(numpy.array([words])) == ["a red heart"]
    assert processor.decode(words[0]) == processor.decode(torch.tensor(words[0])) == processor.decode(words[:1])
    named = [processor.tokens.id(processor.tokens.name(i)) for i in range(vocab.text_size, vocab.size)]
    assert named == list(range(vocab.text_size, vocab.size))


def test_pictures_of_answers(processor, tiny):
    vocab, a, b = processor.chat.vocab, codes(1), codes(2)
    rows = torch.stack([encode_image(one, vocab) for one in (a, b)])
    by_ids, by_codes = processor.post_process_images(rows), processor.post_process_images([a, b])
    assert [p.tobytes() for p in by_ids] == [p.tobytes() for p in by_codes]
    assert processor.post_process_images(a)[0].tobytes() == by_ids[0].tobytes()
    sized = processor.post_process_images([a, b], target_sizes=[(20, 20), (50, 60)])
    assert [p.size for p in sized] == [(20, 20), (60, 50)]
    with pytest.raises(ValueError, match="target_sizes: 1 given for 2 pictures"):
        processor.post_process_images([a, b], target_sizes=[(1, 1)])
    with pytest.raises(ValueError, match="begins and does not end"):
        processor.post_process_images(rows[:, :-1])
    broken = rows.clone()
    broken[0, 4] = 5
    with pytest.raises(ValueError, match="the picture is damaged: token 4 of the picture is 5"):
        processor.post_process_images(broken)
    with pytest.raises(ValueError, match="no size of this model takes 7 tokens"):
        processor.post_process_images(torch.tensor([*rows[0, :6].tolist(), vocab.end_of_image]))


def test_a_key_of_a_picture_that_holds_nothing(processor, tmp_path):
    photo(1).save(tmp_path / "a.png")
    part = {"type": "image", "image": None, "path": str(tmp_path / "a.png")}
    given = processor(text=[{"role": "user", "content": [part]}])
    assert torch.equal(given["pixel_values"][0], processor(text="<image>", images=photo(1))["pixel_values"][0])


def test_the_demo_gives_its_vision_tokenizer():
    processor = IllumeProcessor.from_pretrained("demo", vision_tokenizer="demo")
    sides = processor.config.vision_tokenizer.grids(64, 64)
    levels = tuple(torch.zeros(grid, dtype=torch.int64) for grid in sides)
    assert processor.post_process_images(ImageCodes(64, 64, levels))[0].size == (64, 64)


def test_without_a_vision_tokenizer(tiny_folder):
    bare = IllumeProcessor.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match=r"call set_vision_tokenizer\(model.vision_tokenizer\)"):
        bare.post_process_images(codes())
    assert "text tokens" in repr(bare)
    model, _ = load_tiny(tiny_folder)
    bare.set_vision_tokenizer(model.vision_tokenizer, "cpu")
    assert bare.post_process_images(codes())[0].size == (32, 32)
