"""Answers of words and pictures: those of IllumePipeline.converse, with every id that was written."""

import pytest
import torch
from hf_cases import ENGINE, load_tiny

from illume_fast.data.sequence import ImageCodes
from illume_fast.pipeline import Drawn, IllumePipeline

CHATS = [[{"role": "user", "content": words}] for words in ("draw a dog", "a red heart near the tree", "Hello")]
SETTINGS = {"temperature": 1.0, "max_new_tokens": 12, "seed": 2}


@pytest.fixture(scope="module")
def parts(tiny_folder):
    """A model that often begins a picture: with the tag that both of its sizes begin with."""
    model, processor = load_tiny(tiny_folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[model.core.config.vocab.height_tag(32)] *= 5
    return model, processor, IllumePipeline(model.checkpoint, ENGINE)


@pytest.mark.parametrize("guidance", [None, 1.0, 3.0])
def test_answers_are_those_of_the_pipeline(parts, guidance):
    model, processor, pipe = parts
    given = processor(text=CHATS)
    out = model.generate(**given, generation_mode="interleaved", guidance_scale=guidance, **SETTINGS)
    drawn = 0
    for row, chat in zip(out[:, given["input_ids"].shape[1] :], CHATS, strict=True):
        want = pipe.converse(chat, guidance=guidance, **SETTINGS)
        _, pictures, found = processor.parse_text_image(row)
        codes = [part.codes for part in want.answer if isinstance(part, Drawn)]
        assert len(pictures) == len(codes)
        drawn += len(codes)
        for a, b in zip(pictures, codes, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.levels, b.levels, strict=True))
        words = [part.text for part in want.answer if not isinstance(part, Drawn)]
        shown = "".join(part for part in found if not isinstance(part, ImageCodes))
        for text in words:
            assert text in shown
    assert drawn


def test_a_size_for_all_pictures_and_several_answers(parts):
    model, processor, _ = parts
    given = processor(text=CHATS[:2])
    settings = {**SETTINGS, "generation_mode": "interleaved", "target_image_resolution": (32, 64)}
    out = model.generate(**given, **settings, num_return_sequences=2)
    assert len(out) == 4
    pictures = [codes for row in out for codes in processor.parse_text_image(row)[1]]
    assert pictures
    assert {(codes.height, codes.width) for codes in pictures} == {(32, 64)}
    alone = model.generate(**processor(text=CHATS[1]), **settings)
    length = processor(text=CHATS[1])["input_ids"].shape[1]
    answer = alone[0, length:]
    assert torch.equal(out[2, given["input_ids"].shape[1] :][: len(answer)], answer)
    assert len(processor.post_process_images(out)) == len(pictures)


def test_kinds_of_tokens_have_their_own_settings(parts):
    model, processor, _ = parts
    given = processor(text=CHATS)
    settings = {**SETTINGS, "generation_mode": "interleaved"}
    plain = model.generate(**given, **settings)
    greedy = model.generate(**given, **settings, image_semantic_temperature=0.0, image_pixel_temperature=0.0)
    assert not torch.equal(plain, greedy)
    with pytest.raises(ValueError, match="size 48x48 is not supported"):
        model.generate(**given, **{**settings, "target_image_resolution": (48, 48)})
    with pytest.raises(ValueError, match="do nothing without guidance"):
        model.generate(**given, **settings, guidance_scale=1.0, negative_image_prompt_ids=given["input_ids"][:1])
