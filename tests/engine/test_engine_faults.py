"""Requests that leave early or break: the others go on as if nothing had been, and every page comes back."""

import random
import re
import threading
from collections import Counter

import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, ask, run, small_engine, small_model

from illume_fast.engine import Request


def mixed(count, **rest):
    plans = (PICTURE, TEXT, SMALL)
    return [ask(i, plan=plans[i % 3], guidance=(1.0, 2.0)[i % 2], n=1 + i % 3, **rest) for i in range(count)]


def test_a_thousand_cancellations_at_random_steps():
    chance = random.Random(0)
    engine = small_engine(max_batch=5, cache_tokens=400, read_tokens=16)
    expected = run(small_engine(max_batch=8), mixed(12))
    cancelled, draws = 0, Counter()
    while cancelled < 1000:
        asked = mixed(12)
        doomed = {r.id: chance.randrange(40) for r in chance.sample(asked, 6)}

        def on_step(progress, doomed=doomed):
            for name, step in list(doomed.items()):
                if step <= progress.step:
                    del doomed[name]
                    engine.cancel(name)

        seen = set()
        for result in engine.generate(asked, on_step=on_step):
            key = result.request.id, result.sample
            seen.add(key)
            if result.finish == "cancelled":
                cancelled += 1
                made = re.search(r"cancelled (?:before it began|after (\d+) of \d+ draws)$", str(result.error))
                draws[int(made[1] or 0)] += 1
            else:
                assert result.error is None
                assert result.ids.tolist() == expected[key]
        assert {name for name, _ in seen} == {r.id for r in asked}
        engine.check()
    engine.clear()
    assert engine.cache.pool.num_free == engine.cache.capacity
    assert len(draws) > 12, "at all stages of an answer"
    assert draws.total() - draws[0] > 300, "and not before it began alone"


def test_cancelling_from_another_thread():
    engine, started = small_engine(), threading.Event()

    def cancel():
        started.wait(10)
        engine.cancel("request 1")

    thread = threading.Thread(target=cancel)
    thread.start()
    results = []
    for result in engine.generate((ask(i, n=50, guidance=2.0) for i in range(3)), on_step=lambda p: started.set()):
        results.append(result)
        thread.join(10)
    assert {r.request.id for r in results if r.error is None} == {"request 0", "request 2"}
    assert sum(r.request.id == "request 1" for r in results if r.error is None) == 0


def test_cancelling_what_is_unknown_or_over_does_nothing():
    engine = small_engine()
    engine.cancel("request 1")
    assert run(engine, [ask(1)])
    engine.cancel("request 1")
    assert run(engine, [ask(1)])


def test_a_prompt_whose_reader_left_is_still_read_for_those_that_share_it():
    model = small_model()
    long = ask(1, length=60)
    same = Request(id="same", prompt=long.prompt, plan=SMALL, sampling=long.sampling, seed=4)
    engine = small_engine(model, read_tokens=8, page_size=4)
    results = {}
    for result in engine.generate([long, same], on_step=lambda p: engine.cancel(long.id)):
        results[result.request.id] = result
    assert results[long.id].finish == "cancelled"
    assert results["same"].ids.tolist() == run(small_engine(model), [same])["same", 0]


def test_nan_weights_fail_the_requests_that_meet_them():
    model = small_model()
    model.model.embed_tokens.weight[19] = float("nan")
    asked = [ask(i, prompt=ask(i).prompt, greedy=True) for i in range(10)]
    touched = {q.id for q in asked if 19 in q.prompt[0].ids}
    results = list(small_engine(model).generate(asked))
    broken = {r.request.id for r in results if r.error is not None}
    assert touched
    assert touched <= broken < {q.id for q in asked}
    assert all(r.request.id in str(r.error) and "NaN" in str(r.error) for r in results if r.error is not None)


def test_all_weights_nan():
    model = small_model()
    for weight in model.parameters():
        weight.fill_(float("nan"))
    results = list(small_engine(model).generate(mixed(5)))
    assert len(results) == sum(r.n for r in mixed(5))
    assert all("no finite logit" in str(r.error) for r in results)


def test_a_stopped_consumer_takes_nothing_more():
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield ask(len(taken))

    engine = small_engine(max_batch=4)
    answers = engine.generate(endless())
    next(answers)
    before = len(taken)
    assert before <= 5
    answers.close()
    engine.check()
    assert len(taken) == before


@pytest.mark.parametrize("every", [1, 3])
def test_partial_answers_grow_into_the_whole(every):
    model, told = small_model(), {}
    asked = [ask(i, plan=plan, n=2, guidance=2.0, partial_every=every) for i, plan in enumerate((PICTURE, SMALL))]
    asked += [ask(5), ask(6, plan=TEXT, partial_every=every)]
    engine = small_engine(model)
    results = engine.generate(asked, on_partial=lambda p: told.setdefault((p.request.id, p.sample), []).append(p.ids))
    whole = {(r.request.id, r.sample): r.ids for r in results}
    assert {key: ids.tolist() for key, ids in whole.items()} == run(small_engine(model), asked)
    names = {name for name, _ in told}
    assert "request 5" not in names
    assert {"request 0", "request 1"} - names == ({"request 1"} if every == 3 else set())  # it makes three draws
    for key, parts in told.items():
        assert all(torch.equal(part, whole[key][: len(part)]) for part in parts)
        assert [len(part) for part in parts] == sorted({len(part) for part in parts})
    draws = PICTURE.draws.tolist()
    assert [len(p) for p in told["request 0", 0]] == draws[every::every]
