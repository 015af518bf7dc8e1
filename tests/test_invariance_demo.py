"""The demo model answers every task the same, token for token: in any batch, order and company, read in any pieces.

The same for each draw's hidden states is in tests/engine/test_engine_invariance.py; this is the whole way, from a
prompt to codes, pixels and words.
"""

import random
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from PIL import Image
from support import on_threads

from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import DEMO, load_checkpoint
from illume_fast.pipeline import Ask, Draw, IllumePipeline

pytestmark = pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")
CACHE = 2**14


def source(colour: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (80, 60), (255, 255, 255))
    picture.paste(colour, (10, 10, 60, 50))
    return picture


RED = source((200, 30, 30))
TASKS = (
    Draw(prompt="red apple", tag="plain"),
    Draw(prompt="red apple", seed=1, tag="another seed"),
    Draw(prompt="red apple", guidance=1.0, tag="no guidance"),
    Draw(prompt="blue heart", guidance=4.5, seed=2, tag="strong guidance"),
    Draw(prompt="blue heart", guidance=0.0, seed=2, tag="unconditional"),
    Draw(prompt="yellow star", guidance=3.0, guidance_from=9, guidance_until=40, tag="stretch"),
    Draw(prompt="yellow star", guidance=3.0, guidance_until=7, tag="short stretch"),
    Draw(prompt="green leaf", guidance=2.0, negative_prompt="red apple", tag="negative"),
    Draw(prompt="woman: medium skin tone", temperature=0.0, tag="greedy"),
    Draw(prompt="dog face", temperature=0.6, top_k=40, top_p=0.9, seed=3, tag="cool"),
    Draw(prompt="dog face", temperature=1.5, seed=2**60, tag="hot"),
    Draw(prompt="smiling face", samples=range(3), seed=5, tag="samples"),
    Draw(prompt="change the colour to green", image=RED, seed=6, tag="edit"),
    Draw(prompt="change the colour to green", image=RED, seed=6, guidance=2.5, samples=(1,), tag="guided edit"),
    Ask(prompt="What is in the picture?", images=[RED], tag="words"),
    Ask(prompt="What is in the picture?", images=[RED], temperature=1.0, seed=4, max_new_tokens=20, tag="hot words"),
)
FEW = tuple(t for t in TASKS if t.tag in ("stretch", "negative", "samples", "guided edit", "hot words"))
# strangers: some begin like a task, some like nothing else
STRANGERS = tuple(
    Draw(prompt=words, seed=100 + i, guidance=(None, 1.0, 3.5)[i % 3], tag="stranger")
    for i, words in enumerate(
        f"{first} number {n}" for n in range(12) for first in ("red apple", "blue", f"{n}th star")
    )
) + tuple(Ask(prompt=f"What is this, {i}?", images=[source((9 * i, 80, 40))], tag="stranger") for i in range(12))


@lru_cache
def checkpoint():
    return load_checkpoint("demo", torch.float32, "cpu")


def pipeline(**changes) -> IllumePipeline:
    return IllumePipeline(checkpoint(), EngineConfig(**{"max_batch": 8, "cache_tokens": CACHE, **changes}))


def answers(pipe, tasks, **rest):
    """What became of each sample: words, or codes and (decoded) the picture's bytes."""
    found = {}
    for done in pipe.generate_stream(tasks, **rest):
        if done.error is not None:
            raise done.error
        if done.task.tag == "stranger":
            continue
        codes = (
            None
            if done.codes is None
            else (*done.codes.semantic.flatten().tolist(), *done.codes.pixel.flatten().tolist())
        )
        pixels = None if done.pixels is None else done.pixels.numpy().tobytes()
        assert found.setdefault((done.task.tag, done.sample), (done.text, codes, pixels)) == (done.text, codes, pixels)
    return found


@lru_cache
def lonely() -> IllumePipeline:
    """Draws one answer at a time, and neither shares nor records anything."""
    return pipeline(max_batch=1, share=False, graphs=False)


@lru_cache
def alone(task):
    """What becomes of each sample of a task when there is no other."""
    return answers(lonely(), [task])


def expected(tasks, pixels=True):
    whole = {key: value for task in tasks for key, value in alone(task).items()}
    return {key: value if pixels else (*value[:2], None) for key, value in whole.items()}


def shuffled(tasks, seed):
    return random.Random(seed).sample(list(tasks), len(tasks))


def assert_same(found, tasks, pixels=True):
    want = expected(tasks, pixels)
    assert found.keys() == want.keys()
    assert [key for key in want if found[key] != want[key]] == []


@pytest.fixture(autouse=True)
def one_thread():
    with on_threads(1):
        yield


@pytest.mark.slow
def test_tasks_differ():
    whole = expected(TASKS)
    assert len(whole) == len(TASKS) + 2
    pictures = [codes for _, codes, _ in whole.values() if codes is not None]
    assert len(set(pictures)) == len(pictures)
    assert all(text for text, codes, _ in whole.values() if codes is None)


@pytest.mark.parametrize(
    "changes", [{"max_batch": 5, "read_tokens": 23, "page_size": 3}, {"max_batch": 16}], ids=["pieces", "whole"]
)
def test_some_tasks_in_company(changes):
    pipe = pipeline(**changes)
    assert_same(answers(pipe, shuffled((*FEW, *STRANGERS[:6]), 0)), FEW)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("max_batch", [1, 2, 3, 8, 16, 33, 64])
def test_every_batch_order_and_company(max_batch, threads):
    torch.set_num_threads(threads)
    pipe = pipeline(max_batch=max_batch)
    for tasks in (TASKS, TASKS[::-1], shuffled(TASKS, max_batch)):
        assert_same(answers(pipe, tasks), TASKS)
    most = []
    for seed in range(2):
        crowd = shuffled((*TASKS, *STRANGERS, *STRANGERS[:6]), seed)
        found = answers(pipe, crowd, decode=False, on_step=lambda progress: most.append(progress.active))
        assert_same(found, TASKS, pixels=False)
    assert max(most) == max_batch, "a batch was never full"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("max_batch", [3, 33])
@pytest.mark.parametrize(
    "changes",
    [
        {"read_tokens": 7},
        {"read_tokens": 64, "page_size": 5},
        {"page_size": 64},
        {"share": False},
        {"share": False, "read_tokens": 11},
        {"graphs": False},
        {"graphs": True},
        {"graphs": False, "read_tokens": 1},
    ],
    ids=str,
)
def test_every_way_to_read_share_and_replay(changes, max_batch):
    pipe = pipeline(max_batch=max_batch, **changes)
    for seed in range(2):
        crowd = shuffled((*TASKS, *STRANGERS[::2]), seed)
        assert_same(answers(pipe, crowd, decode=False), TASKS, pixels=False)
    if changes.get("graphs"):
        assert pipe.engine.graphs.replays


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("every", [None, 1, 7])
@pytest.mark.parametrize("max_batch", [2, 16])
def test_watched_or_not(max_batch, every):
    pipe, drafts = pipeline(max_batch=max_batch), []
    found = answers(pipe, shuffled(TASKS, 1), on_partial=drafts.append, partial_every=every)
    assert_same(found, TASKS)
    # an answer in words may be shorter than seven ids
    always = [task for task in TASKS if isinstance(task, Draw) or every != 7]
    assert {draft.task.tag for draft in drafts} >= {task.tag for task in always}
    assert all(draft.error is None for draft in drafts)


@pytest.mark.slow
def test_called_at_once_or_streamed():
    pipe, whole = pipeline(), expected(TASKS)
    pictures = [t for t in TASKS if isinstance(t, Draw)]
    for task in pictures:
        settings = {"negative_prompt": task.negative_prompt, "seed": task.seed, "guidance_scale": task.guidance}
        settings |= {
            name: getattr(task, name) for name in ("temperature", "top_k", "top_p", "guidance_from", "guidance_until")
        }
        count = max(task.samples) + 1
        drawn = pipe(task.prompt, task.image, num_images_per_prompt=count, output_type="codes", **settings).images
        for k in task.samples:
            codes = (*drawn[k].semantic.flatten().tolist(), *drawn[k].pixel.flatten().tolist())
            assert codes == whole[task.tag, k][1], task.tag
    for task in TASKS:
        if isinstance(task, Ask):
            settings = {"max_new_tokens": task.max_new_tokens, "temperature": task.temperature, "seed": task.seed}
            shown: list[str] = []
            assert pipe.chat(task.prompt, task.images, **settings) == whole[task.tag, 0][0]
            assert pipe.chat(task.prompt, task.images, on_text=shown.append, **settings) == whole[task.tag, 0][0]
            assert shown[-1] == whole[task.tag, 0][0]


@pytest.mark.slow
def test_joining_a_run_at_any_moment():
    """Tasks that come one after the other, as an iterator that is asked when room appears, after strangers."""
    pipe = pipeline(max_batch=4)
    for tasks in ([x for t, s in zip(TASKS, STRANGERS, strict=False) for x in (s, t)], [*STRANGERS[:9], *TASKS]):
        found = answers(pipe, (replace(t) for t in tasks), decode=False)
        assert_same(found, TASKS, pixels=False)
