"""Answers told of while they are drawn: beginnings of what comes out, as often as asked, whatever the plan."""

from dataclasses import replace

import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, WORDS, ask, small_engine, small_model

from illume_fast.engine import Plan

# of the legal words, two begin a picture and two end the answer
INTERLEAVED = Plan.text(WORDS.ranges, 14, stop_ids=[7, 12], set=2, inserts={5: SMALL, 6: PICTURE}, max_inserts=2)
PLANS = {"picture": PICTURE, "text": TEXT, "words and pictures": INTERLEAVED}
WAYS = {"at once": {}, "late": {"lags": True}, "guessing": {"speculative": 4}, "alone": {"max_batch": 1}}


def engine_of(way, model):
    settings = dict(WAYS[way])
    lags = settings.pop("lags", False)
    engine = small_engine(model, **settings)
    engine._machine = replace(engine._machine, lags=lags)
    return engine


def told_and_drawn(engine, requests):
    """What was told of each sample, and its answer."""
    told = {}
    results = engine.generate(requests, on_partial=lambda p: told.setdefault((p.request.id, p.sample), []).append(p))
    drawn = {(r.request.id, r.sample): r for r in results}
    return {key: [p.ids for p in told.get(key, [])] for key in drawn}, drawn


def where_draws_are(request, ids):
    """The steps of an answer at which it was drawn: its plan, with what was put into it."""
    plan = request.plan
    for step, token in enumerate(ids):
        if step in plan.draws and token in plan.inserts:
            plan = plan.with_insert(step, token)
    return plan.draws.tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plan", PLANS)
def test_every_so_many_draws_the_beginning_is_told(plan, way):
    asked = [
        ask(
            i, plan=PLANS[plan], guidance=(1.0, 2.0)[i % 2], n=1 + i % 2, partial_every=(1, 3, 0)[i % 3], keep=i % 4 > 1
        )
        for i in range(20)
    ]
    told, drawn = told_and_drawn(engine_of(way, small_model()), asked)
    lengths = set()
    for key, result in drawn.items():
        assert result.error is None
        ids, every = result.ids.tolist(), result.request.partial_every
        made = [step for step in where_draws_are(result.request, ids) if step < len(ids)]
        # up to before the draw that comes next; the whole answer is no part
        expected = [ids[:step] for step in made[every::every]] if every else []
        assert [part.tolist() for part in told[key]] == expected, key
        lengths.add(len(ids))
    if plan == "words and pictures":
        assert max(lengths) > 14 + len(SMALL)
    assert plan == "picture" or len(lengths) > 3


def test_what_is_told_is_the_consumers_own():
    engine = small_engine()

    def spoil(partial):
        partial.ids.fill_(0)

    request = ask(1, plan=INTERLEAVED, partial_every=1)
    (spoilt,) = engine.generate([request], on_partial=spoil)
    (whole,) = small_engine().generate([request])
    assert torch.equal(spoilt.ids, whole.ids)
