"""Conversations: what the model reads of them, and answers of words and pictures."""

from dataclasses import replace

import pytest
import torch
from engine_cases import drawn_plainly
from PIL import Image
from tiny_pipeline import tiny_pipeline

from illume_fast.data.chat import Message, ReadImage, SizeTag
from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes
from illume_fast.engine import EngineConfig, Request, RequestError
from illume_fast.model.vocab import IMAGE_PLACEHOLDER
from illume_fast.pipeline import Ask, Converse, Draft, Draw, Drawn, IllumePipeline, Turn
from illume_fast.tasks import Answer


def photo(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def talkative(folder, engine: EngineConfig | None = None, **settings) -> IllumePipeline:
    """A pipeline whose model often begins a picture: with the tag that both of its sizes begin with."""
    pipe = tiny_pipeline(folder, engine, **settings)
    with torch.no_grad():
        pipe.checkpoint.model.model.embed_tokens.weight[pipe.tasks.vocab.height_tag(32)] *= 5
    return pipe


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return talkative(tmp_path_factory.mktemp("tiny"))


def said(done) -> list:
    return [p if isinstance(p, str) else (p.codes.width, *(c.tolist() for c in p.codes.levels)) for p in done.parts]


def talk(seed: int, **settings) -> Converse:
    turns = [Turn.user(photo(seed % 3, 50, 40), "What is this?"), Turn.assistant("a dog"), Turn.user(f"draw it {seed}")]
    return Converse(messages=turns, temperature=1.0, seed=seed, max_new_tokens=12, max_pictures=2, **settings)


def ids_of(request: Request) -> list[int]:
    """The prompt's ids, a placeholder for each picture read."""
    ids = []
    for segment in request.prompt:
        ids += segment.ids if segment.features is None else [IMAGE_PLACEHOLDER]
    return ids


def test_a_prompt_is_the_chat_of_its_turns(pipe):
    chat, codes = pipe.tasks.chat, ImageCodes(32, 64, (torch.ones(2, 4).long(), torch.ones(4, 8).long()))
    turns = [
        Turn.user(photo(1), photo(2), "Which one?"),
        Turn.assistant("This:", codes, "a dog."),
        Turn.user("And ", photo(3), "?"),
    ]
    (request,) = pipe.tasks.requests(Converse(messages=turns))
    image, tag = ReadImage(), SizeTag(32, 64)
    messages = [
        Message("user", (image, " ", image, "\nWhich one?")),
        Message("assistant", ("This:", tag, codes, "a dog.")),
        Message("user", ("And ", image, "\n?")),
    ]
    assert ids_of(request) == chat.encode(messages, ())[0]
    assert [s.features is not None for s in request.prompt] == [False, True, False, True, False, True, False]
    (question,) = pipe.tasks.requests(Converse(messages=[Turn.user(photo(1), photo(2), "Which one?")]))
    assert ids_of(question) == chat.ask("Which one?", 2)


def test_words_alone_are_what_chat_says(pipe):
    done = pipe.converse([Turn.user(photo(1), "What is this?")], answer="text")
    assert done.text == pipe.chat("What is this?", photo(1))
    assert done.parts == (done.text,)
    other = pipe.converse([{"role": "user", "content": "Hello"}], answer="text", temperature=1.0, seed=4)
    assert other.text == pipe.chat("Hello", temperature=1.0, seed=4)


def test_one_picture_is_what_a_draw_or_an_edit_makes(pipe):
    drawn = pipe.converse([Turn.user("a dog")], answer="image", seed=3)
    assert drawn.picture.tobytes() == pipe("a dog", seed=3).images[0].tobytes()
    source = photo(2, 90, 50)
    edited = pipe.converse([Turn.user(source, "make it green")], answer="image", seed=3)
    assert edited.picture.size == (90, 50)
    assert edited.picture.tobytes() == pipe.edit(source, "make it green", seed=3).images[0].tobytes()
    assert edited.parts[0].picture.size == (64, 32)
    sized = pipe.converse([Turn.user("a dog")], answer="image", seed=3, size=(32, 64), guidance=1.0)
    assert torch.equal(sized.pixels, pipe("a dog", height=32, width=64, seed=3, guidance_scale=1.0, output_type="pt")
                       .images[0].mul(255).round().to(torch.uint8))  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_answers_equal_those_drawn_plainly(pipe, seed):
    task = talk(seed, guidance=(1.0, 3.0)[seed % 2])
    answer = Answer(pipe.tasks, task)
    while answer.request is not None:
        answer.take(torch.tensor(drawn_plainly(pipe.checkpoint.model, answer.request)))
    (done,) = pipe.generate_stream([task])
    assert [type(p) for p in done.answer] == [Drawn if isinstance(p, ImageCodes) else type(p) for p in answer.parts]
    for mine, plain in zip(done.answer, answer.parts, strict=True):
        if isinstance(mine, Drawn):
            assert all(torch.equal(a, b) for a, b in zip(mine.codes.levels, plain.levels, strict=True))
        else:
            assert mine == plain


def test_answers_have_words_and_pictures(pipe):
    done = list(pipe.generate_stream([talk(seed) for seed in range(12)]))
    kinds = {tuple(type(p).__name__ for p in d.parts) for d in done}
    assert {("str",), ("str", "Drawn", "str"), ("str", "Drawn", "str", "Drawn")} & kinds
    pictures = [p for d in done for p in d.parts if isinstance(p, Drawn)]
    assert {p.picture.size for p in pictures} == {(32, 32), (64, 32)}
    assert max(sum(isinstance(p, Drawn) for p in d.parts) for d in done) == 2
    for d in done:
        assert d.text == "\n".join(p for p in d.parts if isinstance(p, str))
        assert sum(len(p.ids) for p in d.answer if not isinstance(p, Drawn)) <= 12
    narrow = list(pipe.generate_stream([talk(seed, size=(32, 64)) for seed in range(8)]))
    assert {p.codes.width for d in narrow for p in d.parts if isinstance(p, Drawn)} == {64}
    assert all(isinstance(p, str) for d in pipe.generate_stream([talk(s, answer="text") for s in range(6)])
               for p in d.parts)  # fmt: skip


def everything() -> list:
    return [
        *(talk(seed, tag=f"talk {seed}") for seed in range(6)),
        Draw(prompt="a dog", seed=1, tag="draw"),
        Ask(prompt="What is this?", images=[photo(1), photo(2)], tag="ask"),
        Converse(messages=[Turn.user(photo(1, 70, 40), photo(2), "mix them")], answer="image", tag="mix"),
        Draw(prompt="make it green", image=photo(1), seed=2, samples=(1, 2), guidance=1.0, tag="edit"),
        Converse(messages=[Turn.user("Hello")], answer="text", tag="hello"),
        Draw(prompt="a heart", size=(32, 64), seed=3, tag="wide"),
    ]


def outcome(done) -> tuple:
    codes = done.codes and [level.tolist() for level in done.codes.levels]
    return done.task.tag, done.sample, done.text, codes, said(done), done.pixels is not None, str(done.error)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_everything_mixed_is_what_it_is_alone(pipe, tmp_path, late):
    """Also where results come a step late, as on a GPU."""
    mixed = talkative(tmp_path, EngineConfig(max_batch=3, cache_tokens=8192))
    mixed.engine._machine = replace(mixed.engine._machine, lags=late)
    alone = [outcome(done) for task in everything() for done in pipe.generate_stream([task])]
    together = [outcome(done) for done in mixed.generate_stream(everything()[::-1])]
    assert sorted(together, key=str) == sorted(alone, key=str)
    assert all(error == "None" for *_, error in alone)
    (lone,) = mixed.generate_stream([everything()[4]])
    assert outcome(lone) in alone


def test_an_edit_turn_sees_all_its_sources(pipe):
    def codes(*sources, words="mix them", before=()):
        turns = [*before, Turn.user(*sources, words)]
        return pipe.converse(turns, answer="image", seed=1).codes.pixel.tolist()

    both = codes(photo(1), photo(2, 64, 32))
    assert both != codes(photo(1), photo(3, 64, 32))
    assert both != codes(photo(4), photo(2, 64, 32))
    first = pipe.converse([Turn.user("a dog")], answer="image", seed=1)
    before = [Turn.user("a dog"), first.turn]
    # a picture written before is edited without being shown again
    assert codes(words="make it green", before=before) != codes(words="make it green")
    (request,) = pipe.tasks.requests(Converse(messages=[*before, Turn.user("make it green")], answer="image"))
    words = pipe.tasks.chat.text.decode([i for s in request.prompt for i in s.ids if i < pipe.tasks.chat.text.size])
    assert "Please edit the image according to the instruction: make it green\n" in words
    assert request.unconditional[0].ids == tuple(pipe.tasks.chat.generate_anything((32, 32)))


def test_guidance_keeps_the_pictures_shown_last(pipe):
    source = photo(1, 64, 32)
    turns = [Turn.user(source, "What is this?"), Turn.assistant("a dog"), Turn.user("make it blue")]
    (request,) = pipe.tasks.requests(Converse(messages=turns, answer="image", size=(32, 64)))
    free = [IMAGE_PLACEHOLDER if s.features is not None else s.ids for s in request.unconditional]
    flat = [i for part in free for i in (part if isinstance(part, tuple) else (part,))]
    assert flat == pipe.tasks.chat.edit_nothing((32, 64))
    assert request.sampling.guidance == pipe.tasks.generation.edit_guidance
    (away,) = pipe.tasks.requests(Converse(messages=turns, answer="image", size=(32, 64), negative_prompt="red"))
    assert away.unconditional[-1].ids != request.unconditional[-1].ids
    (plain,) = pipe.tasks.requests(Converse(messages=turns, answer="image", guidance=1.0))
    assert plain.unconditional is None


def test_presets_are_those_of_draws_and_answers(pipe):
    def sampling(task):
        (request,) = pipe.tasks.requests(task)
        return request.sampling

    turn, edit = Turn.user("a dog"), Turn.user(photo(1), "make it green")
    official = {"sampling": "official", "answer": "image"}
    assert sampling(Converse(messages=[turn], **official)) == sampling(Draw(prompt="a dog", sampling="official"))
    drawn = Draw(prompt="make it green", image=photo(1), sampling="official")
    assert sampling(Converse(messages=[edit], **official)) == sampling(drawn)
    words = Converse(messages=[turn], answer="text", sampling="official")
    assert sampling(words) == sampling(Ask(prompt="a dog", sampling="official"))
    with pytest.raises(InputError, match="officious"):
        pipe.converse([turn], sampling="officious")


def test_history_stands_as_it_was_asked(pipe):
    """What was said to have a picture made is the same when it has been made."""
    first = Turn.user("a dog"), Turn.user(photo(1, 64, 32), "make it green")
    for turn in first:
        (asked,) = pipe.tasks.requests(Converse(messages=[turn], answer="image"))
        answer = pipe.converse([turn], answer="image")
        (later,) = pipe.tasks.requests(Converse(messages=[turn, answer.turn, Turn.user("and?")]))
        assert ids_of(later)[: len(ids_of(asked))] == ids_of(asked)


def test_as_is_leaves_the_users_words_alone(pipe):
    (request,) = pipe.tasks.requests(
        Converse(messages=[Turn.user("draw", SizeTag(32, 32), photo(1))], answer="image", as_is=True)
    )
    expected = [Message("user", ("draw", SizeTag(32, 32), ReadImage()))]
    assert ids_of(request) == pipe.tasks.chat.encode(expected, [SizeTag(32, 32)])[0]


def test_pictures_the_assistant_wrote_may_be_given_as_pictures(pipe):
    picture = photo(5)
    turns = [Turn.user("a dog"), Turn.assistant(picture), Turn.user("what is it?")]
    codes = pipe.tasks.codes_of(picture)
    same = [turns[0], Turn.assistant(codes), turns[2]]
    prompts = [ids_of(pipe.tasks.requests(Converse(messages=t))[0]) for t in (turns, same)]
    assert prompts[0] == prompts[1]
    bad = ImageCodes(32, 32, (codes.semantic, codes.semantic))
    with pytest.raises(InputError, match="a picture of 32x32 has the codes"):
        pipe.converse([turns[0], Turn.assistant(bad), turns[2]])


def test_a_turn_reads_only_what_is_new(pipe):
    read, decoder = [], pipe.checkpoint.model.decoder
    handle = decoder.register_forward_pre_hook(lambda module, args: read.append(len(args[0])))
    try:
        lengths = {}
        for keep in (True, False):
            pipe.engine.clear()
            turns = list(talk(5).messages)
            for _ in range(3):
                read.clear()
                done = pipe.converse(turns, answer="image", size=(32, 64), guidance=1.0, keep=keep)
                turns += [done.turn, Turn.user("and now?")]
            lengths[keep] = read[0]
        # the picture's 52 tokens are found but for a page or so
        assert lengths[True] <= lengths[False] - 52 + 2 * 16
    finally:
        handle.remove()


def test_answers_are_shown_while_they_are_made(pipe):
    drafts: list[Draft] = []
    tasks = [talk(seed) for seed in range(3, 6)]
    done = list(pipe.generate_stream(tasks, on_partial=drafts.append, partial_every=4))
    plain = {d.task.seed: said(d) for d in pipe.generate_stream(tasks)}
    for d in done:
        assert said(d) == plain[d.task.seed]
        mine = [draft for draft in drafts if draft.task is d.task]
        assert mine
        for draft in mine:
            before = [p if isinstance(p, str) else p.codes.width for p in draft.parts]
            assert before == [p if isinstance(p, str) else p.codes.width for p in d.parts][: len(before)]
            assert (draft.text is None) == (draft.fraction is not None)
    assert any(draft.pixels is not None and draft.parts for draft in drafts)


def test_codes_come_without_pixels(pipe):
    done = list(pipe.generate_stream([talk(seed) for seed in range(6)], decode=False))
    pictures = [p for d in done for p in d.parts if isinstance(p, Drawn)]
    assert pictures
    assert all(p.pixels is None for p in pictures)


def test_what_was_said_before_an_error_is_kept(tmp_path):
    # room for the words, but for no picture
    pipe = talkative(tmp_path, EngineConfig(max_batch=2, cache_tokens=160), max_answer=4)
    tasks = [Converse(messages=[Turn.user("draw")], temperature=1.0, seed=seed) for seed in range(40)]
    done = list(pipe.generate_stream([*tasks, Draw(prompt="a dog", guidance=1.0)]))
    failed = [d for d in done if d.error is not None]
    assert len(done) == 41
    assert failed
    assert any(d.parts for d in failed)
    assert all("the cache has 10" in str(d.error) for d in failed)
    with pytest.raises(RequestError, match="the cache has 10"):
        pipe.converse([Turn.user("draw")], temperature=1.0, seed=failed[0].task.seed)
