"""Presets of the official scripts: the numbers they stand for, and that every way to draw hears of them."""

import json

import pytest
from PIL import Image
from support import on_threads
from tiny_pipeline import tiny_pipeline

from illume_fast import generate_batch
from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record
from illume_fast.data.sampling_presets import PRESETS
from illume_fast.engine import EngineConfig, SamplingSet, SecondChain
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.worker import hash_of
from illume_fast.pipeline import Ask, Draw

WORDS = "a red heart"
# (text, semantic, pixel) of docs/sampling.md, guidance, and whether text's chain follows
TABLE = {
    ("official", False): ((1, 2048, 1), (1, 2048, 1), (1, 6144, 1), 2.0, True),
    ("official", True): ((0.7, 512, 0.8), (0.7, 512, 0.8), (0.7, 1536, 0.8), 1.25, True),
    ("official-notebook", False): ((1, 128, 1), (1, 2024, 1), (1, 6072, 1), 2.0, True),
    ("official-notebook", True): ((1, 128, 1), (0.7, 512, 0.8), (0.7, 1536, 0.8), 1.5, True),
    ("official-app", False): ((1, 128, 1), (1, 2048, 1), (1, 6144, 1), 2.0, False),
    ("official-app", True): ((1, 128, 1), (0.7, 512, 0.8), (0.7, 1536, 0.8), 1.5, False),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    engine = EngineConfig(max_batch=4, cache_tokens=4096)
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), engine, repetition_penalty=1.05)


def picture(editing):
    return Image.new("RGB", (32, 32), "red") if editing else None


def sampling_of(pipe, task):
    (request,) = pipe.tasks.requests(task)
    return request.sampling


@pytest.mark.parametrize(("name", "editing"), TABLE)
def test_a_preset_is_the_official_scripts_numbers(pipe, name, editing):
    text, *codes, guidance, twice = TABLE[name, editing]
    sampling = sampling_of(pipe, Draw(prompt=WORDS, image=picture(editing), sampling=name))
    assert sampling.sets == tuple(SamplingSet(*numbers) for numbers in codes)
    assert sampling.then == (SecondChain(*text) if twice else None)
    assert (sampling.guidance, sampling.repetition_penalty) == (guidance, 1.05)
    if not editing:
        answer = sampling_of(pipe, Ask(prompt=WORDS, sampling=name))
        assert (answer.sets, answer.then, answer.repetition_penalty) == (
            (SamplingSet(*text),), sampling.then, 1.05
        )  # fmt: skip


def test_the_penalty_is_that_of_the_model(tmp_path):
    for task in (Draw(prompt=WORDS, sampling="official"), Ask(prompt=WORDS, sampling="official")):
        assert sampling_of(tiny_pipeline(tmp_path), task).repetition_penalty == 1.0


def test_every_preset_is_in_the_table():
    assert {name for name, _ in TABLE} == set(PRESETS)


def test_what_is_said_beside_it_goes_first(pipe):
    own = {"sampling": "official", "temperature": 0.5, "top_k": 7, "guidance": 3.0}
    sampling = sampling_of(pipe, Draw(prompt=WORDS, **own))
    assert sampling.sets == (SamplingSet(0.5, 7, 1),) * 2
    assert (sampling.then, sampling.guidance) == (SecondChain(0.5, 7, 1), 3.0)
    greedy = sampling_of(pipe, Draw(prompt=WORDS, sampling="official", temperature=0.0))
    assert (greedy.then, greedy.repetition_penalty) == (None, 1.05)


def test_without_one_nothing_is_filtered_twice(pipe):
    for task in (Draw(prompt=WORDS), Draw(prompt=WORDS, image=picture(True)), Ask(prompt=WORDS)):
        sampling = sampling_of(pipe, task)
        assert (sampling.then, sampling.repetition_penalty) == (None, 1.0)
    assert sampling_of(pipe, Ask(prompt=WORDS)).sets[0].temperature == 0


@pytest.mark.parametrize("name", ["Official", "", 3, ["official"]])
def test_another_name_is_refused(pipe, tmp_path, name):
    message = "is not known; allowed are official, official-notebook, official-app"
    with pytest.raises(InputError, match=message):
        pipe(WORDS, sampling=name)
    with pytest.raises(InputError, match=message):
        pipe.chat(WORDS, sampling=name)
    with pytest.raises(InputError, match=f"sampling .*{message}"):
        JobConfig(out=tmp_path, sampling=name).check()


def test_answers_hear_of_it(pipe):
    drawn = {pipe.chat(WORDS, sampling="official", seed=seed) for seed in range(4)}
    assert len(drawn) > 1, "a preset draws"
    assert pipe.chat(WORDS, sampling="official", temperature=0.0) != ""


def test_a_job_draws_what_the_pipeline_draws_and_does_not_mix(pipe, tmp_path):
    rows = [{"prompt": WORDS, "id": "red"}, {"prompt": WORDS, "id": "more", "guidance": 4.0}]

    def job(name, **settings):
        generate_batch(rows, tmp_path / name, pipe, **settings)
        lines = (tmp_path / name / "results.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    plain, official = job("plain"), job("official", sampling="official")
    assert {row["sampling"] for row in official.values()} == {"official"}
    assert (official["red"]["guidance"], official["more"]["guidance"]) == (2.0, 4.0)
    for name, scale in (("red", None), ("more", 4.0)):
        (codes,) = pipe(WORDS, seed=0, sampling="official", guidance_scale=scale, output_type="codes").images
        assert official[name]["tokens"] == hash_of(codes) != plain[name]["tokens"]
    assert read_record(tmp_path / "official/images/red_0.png")["sampling"] == "official"
    with pytest.raises(InputError, match="was made without sampling, not with 'official'"):
        job("plain", sampling="official")


def test_a_picture_tells_its_preset(pipe):
    out = pipe(WORDS, seed=1, sampling="official")
    assert (out.records[0]["sampling"], out.records[0]["guidance"]) == ("official", 2.0)
    edit = pipe.edit(picture(True), WORDS, seed=1, sampling="official")
    assert edit.records[0]["guidance"] == 1.25
