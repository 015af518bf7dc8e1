"""Conversations that cannot be answered are refused in one line."""

import pytest
import torch
from PIL import Image
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes
from illume_fast.pipeline import Ask, Draw, IllumePipeline, Turn


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> IllumePipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("turns", "settings", "reason"),
    [
        ([], {}, "the last turn of a conversation must be the user's"),
        ([Turn.user("a"), Turn.assistant("b")], {}, "the last turn of a conversation must be the user's"),
        ([Turn.user("a")], {"answer": "picture"}, "answer 'picture' is not known; allowed are text, image"),
        ([Turn.user("a")], {"size": (33, 32)}, "size 33x32 is not supported; allowed are 32x32, 32x64"),
        ([Turn.user("a")], {"size": "32x32"}, r"size must be \(height, width\) in pixels, got '32x32'"),
        ([Turn.user("a")], {"max_pictures": 0}, "max_pictures must be at least 1, got 0"),
        ([Turn.user("a")], {"max_new_tokens": 1.5}, "max_new_tokens must be a whole number, got 1.5"),
        ([Turn.user(Image.new("RGB", (32, 32)), "a")], {"max_pixels": 9}, "max_pixels must be at least 1024, got 9"),
        ([Turn.user("a")], {"picture_top_p": 2.0}, r"top_p must lie in \[0, 1\], got 2.0"),
        ([Turn.user(Image.new("RGB", (32, 32)))], {"answer": "image"}, "the prompt is empty"),
        ([Turn.user("a")], {"negative_prompt": "b", "guidance": 1.0}, "a negative prompt does nothing"),
        ([Turn.user("a")], {"negative_prompt": "b", "answer": "text"}, "a negative prompt does nothing without"),
        ([Turn.user("a\0b")], {}, "a turn of the user has a NUL character or half a surrogate pair in it"),
        ([{"role": "system", "content": "x"}], {}, "message 0: role 'system' is not allowed"),
        ([{"role": "user"}], {}, "message 0: expected"),
        ([{"role": "user", "content": [{"type": "video"}]}], {}, "message 0: expected"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "message 0: there is no picture for an image"),
        ([{"role": "user", "content": " "}], {}, "message 0: a turn of the user is empty"),
        ([{"role": "user", "content": "x"}], {"images": [Image.new("RGB", (32, 32))]}, "1 more pictures than places"),
        ([{"role": "user", "content": "x"}], {"images": Image.new("L", (1, 1))}, "images must be a list of pictures"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(pipe, turns, settings, reason):
    with pytest.raises(InputError, match=reason):
        pipe.converse(turns, **settings)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Ask(prompt="a", images=Image.new("RGB", (32, 32))), "images must be a list of PIL pictures, got <PIL"),
        (Ask(prompt="a", images="cat.png"), "images must be a list of PIL pictures, got 'cat.png'"),
        (Ask(prompt="a", images=None), "images must be a list of PIL pictures, got None"),
        (Draw(prompt="a", samples=3), "samples must be a list of whole numbers from 0 on, got 3"),
        (Draw(prompt="a", samples=(0, -1)), "samples must be a list of whole numbers from 0 on, got -1"),
    ],
)
def test_lists_that_are_none_fail_alone(pipe, task, reason):
    good = Ask(prompt="a", max_new_tokens=2)
    done = {done.task: done for done in pipe.generate_stream([task, good])}
    assert isinstance(done[task].error, InputError)
    assert reason in str(done[task].error)
    assert done[good].error is None


def test_turns_hold_what_their_side_can_say():
    codes = ImageCodes(32, 32, (torch.ones(2, 2).long(),))
    with pytest.raises(InputError, match="a user shows pictures as PIL pictures"):
        Turn.user(codes)
    with pytest.raises(InputError, match="a turn holds texts, PIL pictures and codes, got int"):
        Turn.user(3)
    with pytest.raises(InputError, match="a turn of the user is empty"):
        Turn.user(" ")
    assert Turn.assistant().words == ""
