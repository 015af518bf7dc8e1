"""Questions of lmms-eval on a small random model: pictures in, answers, losses and rounds out. lmms-eval is not
needed."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support import on_threads
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.engine import EngineConfig
from illume_fast.integrations.lmms_eval.questions import Question, answers, room_after, seed_of
from illume_fast.integrations.lmms_eval.rounds import Game, play
from illume_fast.integrations.lmms_eval.scoring import losses
from illume_fast.integrations.lmms_eval.visuals import pictures_of
from illume_fast.integrations.lmms_eval.wording import Wording
from illume_fast.pipeline import Ask


def noise(seed, size=(40, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("lmms"))


def fail(error):
    raise error


QUESTIONS = [
    Question(id="0", words="what is this", pictures=[noise(0)], wording=Wording(max_new_tokens=9)),
    Question(id="1", words="a red heart", wording=Wording(max_new_tokens=7, temperature=1.0), seed=5),
    Question(id="2", words="these two", pictures=[noise(1), noise(2)], wording=Wording(max_new_tokens=6)),
    Question(id="3", words="a red heart", wording=Wording(max_new_tokens=7, temperature=1.0), seed=6),
]


def makers(questions):
    return [partial(lambda question: question, question) for question in questions]


def test_answers_come_in_order_and_do_not_depend_on_the_batch(pipe, tmp_path):
    together = answers(pipe, makers(QUESTIONS), fail)
    alone = [answers(pipe, makers([question]), fail)[0] for question in QUESTIONS]
    backwards = answers(pipe, makers(QUESTIONS[::-1]), fail)[::-1]
    one_by_one = answers(tiny_pipeline(tmp_path, EngineConfig(max_batch=1, cache_tokens=8192)), makers(QUESTIONS), fail)
    assert together == alone == backwards == one_by_one
    assert together[1] != together[3], "another seed, another answer"
    assert pipe.chat("what is this", noise(0), max_new_tokens=9) == together[0]


def test_an_answer_is_cut_and_its_length_bounded_by_the_context(pipe):
    (whole,) = answers(pipe, makers(QUESTIONS[:1]), fail)
    stop = whole[2]
    stopped = Question(
        id="0", words="what is this", pictures=[noise(0)], wording=Wording(max_new_tokens=9, stops=(stop,))
    )
    assert answers(pipe, makers([stopped]), fail) == [whole[: whole.index(stop)].strip()]
    endless = Question(id="x", words="what is this", wording=Wording(max_new_tokens=49_152))
    task = endless.task(pipe)
    (request,) = pipe.tasks.requests(task)
    assert task.max_new_tokens == room_after(pipe, task) > 500
    assert pipe.engine.refusal(request) is None
    assert Question(id="x", words="what is this").task(pipe).max_new_tokens == 20, "the model's own"


def test_what_fails_is_handed_over_and_the_others_are_answered(pipe):
    bad = Question(id="bad", words="<image> what <image>", pictures=[noise(0)])
    too_long = Question(id="long", words="word " * 3000)
    failed, done = [], []
    found = answers(
        pipe, makers([bad, QUESTIONS[0], too_long]), lambda e: failed.append(str(e)), lambda: done.append(1)
    )
    assert found[0] == found[2] == ""
    assert found[1] == answers(pipe, makers(QUESTIONS[:1]), fail)[0]
    assert len(done) == 3
    assert sorted("2 marks" in reason for reason in failed) == [False, True]
    with pytest.raises(InputError, match="bad: 2 marks <image> for 1 pictures"):
        answers(pipe, makers([bad]), fail)


def test_pictures_stand_where_their_marks_do(pipe):
    first, second = noise(0), noise(1)
    plain = Question(id="x", words="which is red?", pictures=[first, second]).task(pipe)
    leading = Question(id="x", words=" <image>\n<image> which is red?", pictures=[first, second]).task(pipe)
    assert [task.prompt for task in (plain, leading)] == ["which is red?"] * 2
    within = Question(id="x", words="is <image> redder than <image>?", pictures=[first, second]).task(pipe)
    assert within.messages[0].parts == ("is ", first, " redder than ", second, "?")
    prompts = [tuple(map(len, pipe.tasks.requests(task)[0].prompt)) for task in (plain, leading, within)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert sum(prompts[2]) - sum(prompts[0]) < 20
    # without pictures they are words
    assert Question(id="x", words="what does <image> do?").task(pipe).prompt == "what does <image> do?"
    with pytest.raises(InputError, match="x: 1 marks <image> for 2 pictures"):
        Question(id="x", words="<image> red?", pictures=[first, second]).task(pipe)


def test_large_pictures_are_scaled_down_to_the_bound_given(pipe):
    def length(bound):
        task = Question(id="x", words="what is this", pictures=[noise(0, (128, 128))], max_pixels=bound).task(pipe)
        return sum(map(len, pipe.tasks.requests(task)[0].prompt))

    assert length(32 * 32) < length(None)


def test_seeds_depend_on_name_and_repeat_alone():
    assert seed_of(3, "task/val/1", 0) == seed_of(3, "task/val/1", 0)
    seeds = {seed_of(base, name, repeat) for base in range(3) for name in ("a/val/1", "a/val/2") for repeat in (10, 20)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_visuals_of_every_kind(tmp_path):
    noise(0).save(tmp_path / "p.png")
    data = io.BytesIO()
    noise(0).save(data, "PNG")
    given = [
        *(noise(0), str(tmp_path / "p.png"), tmp_path / "p.png"),
        *({"bytes": data.getvalue(), "path": None}, {"bytes": None, "path": str(tmp_path / "p.png")}),
    ]
    for picture in pictures_of(given, "x"):
        assert (np.asarray(picture) == np.asarray(noise(0))).all()
    assert pictures_of(None, "x") == pictures_of([], "x") == []
    assert len(pictures_of(noise(0), "x")) == 1


@pytest.mark.parametrize(
    "visual,message",
    [
        ("clip.mp4", "doc 3: clip.mp4 is a video"),
        ({"path": "a/b.MKV"}, "is a video"),
        ({"array": [0.1], "sampling_rate": 16_000}, "hears no sounds"),
        ("nowhere.png", "nowhere.png does not exist"),
        ({"bytes": b"no picture"}, "a picture cannot be read"),
        ({"words": 1}, "shows a dict"),
        (3, "shows a int"),
        ("", "shows a str"),
    ],
)
def test_what_is_no_picture_is_refused(visual, message):
    with pytest.raises(InputError) as error:
        pictures_of([visual], "doc 3")
    assert message in str(error.value)


def test_losses_are_those_of_the_tokens_one_by_one(pipe):
    """The engine's own greedy answers are likeliest, token by token, and others are scored as by hand."""
    asked = [(question.task(pipe), words) for question in QUESTIONS for words in ("a small dog", " near")]
    found = losses(pipe, asked, batch_size=3)
    for (ask, words), (loss, greedy) in zip(asked, found, strict=True):
        assert loss == pytest.approx(by_hand(pipe, ask, words), rel=1e-4)
        assert not greedy
    alone = [losses(pipe, [pair])[0] for pair in asked]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in alone], rel=1e-5)


@torch.inference_mode()
def by_hand(pipe, ask, words):
    """Mean of minus the log probability of each token, each from a pass of its own over all before it."""
    model, tasks = pipe.checkpoint.model, pipe.tasks
    (request,) = tasks.requests(ask)
    row = torch.cat([model.embed(torch.tensor(s.ids)) if s.features is None else s.features for s in request.prompt])
    total = []
    for token in tasks.chat.text.encode(words.strip()):
        logits = model.hidden(row[None])[0, -1] @ model.head_weight[: tasks.vocab.text_size].T
        total.append(-logits.log_softmax(-1)[token].item())
        row = torch.cat([row, model.embed(torch.tensor([token]))])
    return sum(total) / len(total)


def test_the_greedy_answer_is_known_as_such(pipe):
    chosen = None
    for seed in range(40):
        ask = Ask(prompt="what is this", images=[noise(seed)], max_new_tokens=4)
        text = pipe.chat(ask.prompt, ask.images, max_new_tokens=4)
        ids = pipe.tasks.chat.text.encode(text)
        # bytes that are no text do not come back as the ids they were
        (drawn,) = [result.ids.tolist() for result in pipe.engine.generate(pipe.tasks.requests(ask))]
        if ids and drawn[: len(ids)] == ids:
            chosen = ask, text
            break
    assert chosen is not None
    ((loss, greedy),) = losses(pipe, [chosen])
    assert greedy
    assert loss < losses(pipe, [(chosen[0], "a small dog")])[0][0]


def test_nothing_and_too_much_cannot_be_scored(pipe):
    ask = Ask(prompt="what is this", max_new_tokens=1, id="doc 4")
    with pytest.raises(InputError, match="doc 4: the answer to be scored has no words"):
        losses(pipe, [(ask, "  ")])
    with pytest.raises(InputError, match=r"doc 4: prompt and answer are .* tokens long, the model takes 1024"):
        losses(pipe, [(ask, "dog " * 2000)])


def test_rounds_go_on_until_the_task_ends_them():
    """Three documents of one, two and three rounds; what goes on is answered in one batch."""

    def next_round(document, *, previous_output, round_idx, previous_round_info):
        assert previous_output == [f"{document}{i}" for i in range(round_idx)]
        assert previous_round_info == (None if round_idx == 1 else round_idx - 1)
        over = round_idx >= document
        return None, f"round {round_idx}", over, previous_output, round_idx

    games = [Game(document=n, next_round=next_round, visuals=None, context="round 0") for n in (1, 3, 2)]
    batches = []

    def answer(going, number):
        assert {game.context for game in going} == {f"round {number}"}
        batches.append([game.document for game in going])
        return [f"{game.document}{number}" for game in going]

    assert play(games, answer) == [["10"], ["30", "31", "32"], ["20", "21"]]
    assert batches == [[1, 3, 2], [3, 2], [3]]
