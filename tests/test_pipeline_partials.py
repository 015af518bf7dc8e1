"""Pictures and answers shown while they are made, and what happens when they cannot be decoded."""

import gc
import threading

import pytest
import torch
from PIL import Image
from tiny_pipeline import tiny_pipeline

from illume_fast.engine import RequestError, sample_seed
from illume_fast.pipeline import Ask, Draft, Draw


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def test_pictures_are_shown_while_they_are_drawn(pipe):
    drafts: list[Draft] = []
    tasks = [Draw(prompt="a dog", seed=1, samples=range(2)), Draw(prompt="a heart", size=(32, 64), seed=2)]
    done = list(pipe.generate_stream(tasks, on_partial=drafts.append, partial_every=4))
    plain = list(pipe.generate_stream(tasks))
    for a, b in zip(done, plain, strict=True):
        assert (a.task, a.sample, a.seed) == (b.task, b.sample, b.seed)
        assert torch.equal(a.pixels, b.pixels)
    for task, sample, seed, codes in (
        (tasks[0], 0, 1, 20),
        (tasks[0], 1, sample_seed(1, 1), 20),
        (tasks[1], 0, 2, 40),
    ):
        mine = [d for d in drafts if d.task is task and d.sample == sample]
        assert [d.fraction for d in mine] == [n / codes for n in range(4, codes, 4)]
        assert {d.seed for d in mine} == {seed}
        assert all(d.pixels.shape == done[0].pixels.shape[:1] + (task.size or (32, 32)) for d in mine)
        assert all(d.error is None and d.picture.height == 32 for d in mine)


def test_about_ten_drafts_unless_said_otherwise(pipe):
    drafts: list[Draft] = []
    out = pipe("a dog", seed=1, on_partial=drafts.append)
    assert len(drafts) == 9
    assert out.images[0].tobytes() == pipe("a dog", seed=1).images[0].tobytes()
    some: list[Draft] = []
    pipe("a dog", seed=1, on_partial=some.append, partial_every=8)
    assert len(some) == 2


def test_a_draft_of_an_edit_has_its_source_s_size(pipe):
    drafts: list[Draft] = []
    source = Image.new("RGB", (90, 50), (200, 30, 30))
    pipe.edit(source, "make it green", seed=1, on_partial=drafts.append, partial_every=20)
    assert [d.picture.size for d in drafts] == [(90, 50)]


def test_errors_of_a_callback_are_raised_and_the_engine_goes_on(pipe):
    def broken(draft):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pipe("a dog", seed=1, on_partial=broken)
    assert len(pipe("a dog", seed=1).images) == 1


@pytest.mark.parametrize("text", ["a 💛 é 日本", "naïve 🏳️‍🌈", "plain", "💛"])
def test_text_so_far_holds_whole_characters(pipe, text):
    ids = pipe.tasks.chat.text.encode(text)
    assert len(ids) > len(text.split())
    sofar = [pipe.tasks.words_so_far(torch.tensor(ids[:n])) for n in range(len(ids) + 1)]
    assert sofar[-1] == text
    assert all(text.startswith(s) for s in sofar)
    assert [len(s) for s in sofar] == sorted(len(s) for s in sofar)


def test_answers_grow(pipe):
    shown: list[str] = []
    answer = pipe.chat("What is this?", temperature=1.0, seed=3, on_text=shown.append)
    assert answer == pipe.chat("What is this?", temperature=1.0, seed=3)
    assert shown[-1] == answer
    assert len(shown) == len(set(shown)) > 2
    assert all("\N{REPLACEMENT CHARACTER}" not in text[-1:] for text in shown[:-1])
    assert all(answer.startswith(text) for text in shown)


def broken_for(pipe, monkeypatch, bad):
    pixels = pipe.decoder._pixels

    def raises(semantic, pixel):
        if bad(pixel):
            raise ValueError("not this one")
        return pixels(semantic, pixel)

    monkeypatch.setattr(pipe.decoder, "_pixels", raises)


def test_a_picture_that_cannot_be_decoded_fails_alone(pipe, monkeypatch):
    tasks = [Draw(prompt="a dog", seed=1, id="first"), Draw(prompt="a dog", size=(32, 64)), Ask(prompt="a")]
    broken_for(pipe, monkeypatch, lambda pixel: pixel.shape[1:3] == (4, 4))
    drafts: list[Draft] = []
    done = {d.task: d for d in pipe.generate_stream(tasks, on_partial=drafts.append)}
    assert isinstance(done[tasks[0]].error, RequestError)
    assert str(done[tasks[0]].error) == "request 'first': its picture could not be decoded: not this one"
    assert done[tasks[1]].pixels is not None
    assert done[tasks[2]].text is not None
    assert all((d.error is None) == (d.task is not tasks[0]) for d in drafts)
    with pytest.raises(RequestError, match="request 'a dog': its picture could not be decoded"):
        pipe("a dog", seed=1)


def test_a_consumer_that_stops_leaves_nothing_behind(pipe):
    before = threading.active_count()
    stream = pipe.generate_stream(
        [Draw(prompt="a dog", samples=range(4))], on_partial=lambda draft: None, partial_every=10
    )
    next(stream)
    assert threading.active_count() == before
    stream.close()
    gc.collect()
    assert len(pipe("a dog").images) == 1
