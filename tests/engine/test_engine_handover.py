"""What is handed out a step late, as on a GPU, is what is handed out at once; forced here on the CPU."""

import random
from dataclasses import replace

import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, WORDS, ask, run, small_engine, small_model

from illume_fast.engine import Plan, Segment
from illume_fast.engine.handover import Handover

INTERLEAVED = Plan.text(WORDS.ranges, 10, stop_ids=[7], set=2, inserts={5: SMALL, 6: PICTURE}, max_inserts=2)


def late_engine(model=None, **changes):
    engine = small_engine(model, **changes)
    engine._machine = replace(engine._machine, lags=True)
    return engine


def mixed(count, **rest):
    plans = (PICTURE, TEXT, SMALL, INTERLEAVED)
    return [ask(i, plan=plans[i % 4], guidance=(1.0, 2.0, 3.0)[i % 3], n=1 + i % 3, **rest) for i in range(count)]


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_late_answers_are_the_same(max_batch):
    model = small_model()
    late, at_once = (
        [(r.request.id, r.sample, r.finish, r.ids.tolist()) for r in engine.generate(mixed(20))]
        for engine in (late_engine(model, max_batch=max_batch), small_engine(model, max_batch=max_batch))
    )
    assert sorted(late) == sorted(at_once)
    assert {finish for _, _, finish, _ in late} == {"plan", "stop"}


@pytest.mark.parametrize("tokens", [8, 24])
def test_late_answers_of_steps_that_guess_are_the_same(tokens):
    """Steps that guess, which are looked at at once, come and go with the number of rows."""
    model, told = small_model(), {}
    guesses = {"speculative": 4, "speculative_tokens": tokens, "speculative_by_clock": False, "max_batch": 5}
    asked = mixed(12, partial_every=1)
    expected = run(small_engine(model, **guesses), asked)
    engine = late_engine(model, **guesses)
    for r in engine.generate(asked, on_partial=lambda p: told.setdefault((p.request.id, p.sample), []).append(p.ids)):
        assert r.ids.tolist() == expected[r.request.id, r.sample]
        # nothing is told of an answer that its first draw ends
        parts = told.get((r.request.id, r.sample), [])
        assert all(torch.equal(part, r.ids[: len(part)]) for part in parts)
    assert told
    assert engine.speculation.row_steps


def test_what_is_looked_at_waits_for_the_next_step(monkeypatch):
    engine, steps, asked = late_engine(), [], []
    seen, count = Handover.seen, type(engine.graphs).run

    def noted(self, *args):
        steps.append(None)
        return count(self, *args)

    def looked(self):
        answer = seen(self)
        asked.extend((len(steps), draws) for _, draws, _ in answer)
        return answer

    monkeypatch.setattr(type(engine.graphs), "run", noted)
    monkeypatch.setattr(Handover, "seen", looked)
    (result,) = engine.generate([ask(3, plan=TEXT)])
    draws = len(result.ids)
    # draw d is made by step d - 1, and looked at behind step d; the last may be the plan's last, which nobody looks at
    assert asked == [(d, d) for d in range(1, draws + (result.finish == "stop"))]
    assert result.finish == "stop"
    assert len(steps) == draws


def test_cancelled_while_others_are_handed_out_late():
    chance = random.Random(1)
    engine = late_engine(max_batch=5, cache_tokens=400, read_tokens=16)
    expected = run(small_engine(max_batch=8), mixed(12))
    cancelled = 0
    while cancelled < 100:
        asked = mixed(12)
        doomed = {r.id: chance.randrange(20) for r in chance.sample(asked, 6)}

        def on_step(progress, doomed=doomed):
            for name in [name for name, step in doomed.items() if step <= progress.step]:
                del doomed[name]
                engine.cancel(name)

        results = list(engine.generate(asked, on_step=on_step))
        assert {r.request.id for r in results} == {r.id for r in asked}
        for r in results:
            cancelled += r.finish == "cancelled"
            assert r.finish == "cancelled" or r.ids.tolist() == expected[r.request.id, r.sample]


@pytest.mark.parametrize("rows", [slice(None), slice(19, 20)])
def test_nan_is_told_late_as_well(rows):
    model = small_model()
    model.model.embed_tokens.weight[rows] = float("nan")
    late, at_once = (
        sorted((r.request.id, r.sample, str(r.error), r.ids.tolist()) for r in engine.generate(mixed(12)))
        for engine in (late_engine(model), small_engine(model))
    )
    assert late == at_once
    assert any("NaN" in error for _, _, error, _ in late)


def test_kept_answers_are_found_by_the_next_turn():
    model = small_model()
    first = ask(3, plan=TEXT, keep=True)
    for engine in (late_engine(model), small_engine(model)):
        (answer,) = engine.generate([first])
        said = tuple(answer.ids.tolist())
        turn = ask(90, prompt=(*first.prompt, Segment(said), Segment((3, 4))), plan=SMALL)
        assert engine._machine.store.kept
        assert run(engine, [turn]) == run(small_engine(model), [turn])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("guesses", [{}, {"speculative": 4, "speculative_tokens": 64}])
def test_the_same_parts_are_shown_late(guesses, every):
    """Each before its sample's result, and none that turns out to be all of it."""
    model, asked = small_model(), mixed(12, partial_every=every)
    shown = []
    for make in (late_engine, small_engine):
        told, done = {}, set()

        def show(part, told=told, done=done):
            assert (part.request.id, part.sample) not in done
            told.setdefault((part.request.id, part.sample), []).append(part.ids.tolist())

        for r in make(model, **guesses).generate(asked, on_partial=show):
            done.add((r.request.id, r.sample))
            parts = told.get((r.request.id, r.sample), [])
            assert all(part == r.ids.tolist()[: len(part)] for part in parts)
            assert all(len(part) < len(r.ids) for part in parts)
        shown.append(told)
    assert shown[0] == shown[1]
    assert len(shown[0]) > 6


def test_parts_wait_for_the_next_step_and_not_for_what_is_cancelled():
    for engine, lag in ((late_engine(), 1), (small_engine(), 0)):
        steps, shown = [], []

        def on_step(progress, engine=engine, steps=steps):
            steps.append(progress.drawn)
            if progress.drawn == 5:
                engine.cancel("request 3")

        def on_partial(part, steps=steps, shown=shown):
            shown.append((len(steps), len(part.ids)))

        (result,) = engine.generate([ask(3, plan=PICTURE, partial_every=1)], on_step, on_partial)
        assert result.finish == "cancelled"
        # draw d is made by step d; what stands before the draw behind it are that many draws and forced ids
        assert shown == [(d - 1 + lag, int(PICTURE.draws[d])) for d in range(1, 6 - lag)]


def test_an_engine_that_is_stopped_early_gives_its_pages_back():
    answers = late_engine(max_batch=2).generate(mixed(9))
    next(answers)
    answers.close()


def test_a_page_table_that_is_cut_gives_the_same():
    model = small_model()
    engine = small_engine(model)
    engine._machine.buffers.cuts_table = True
    widths, met = set(), type(engine.graphs).run
    engine.graphs.run = lambda shape, step: (widths.add(shape.pages), met(engine.graphs, shape, step))
    asked = [ask(i, plan=PICTURE, guidance=2.0, length=length) for i, length in enumerate((3, 30, 90))]
    for request in asked:
        assert run(engine, [request]) == run(small_engine(model), [request])
    whole = engine._machine.buffers.page_table.shape[1]
    assert len(widths) == 3
    assert all(w & (w - 1) == 0 and w < whole for w in widths)
    assert engine._machine.buffers.columns(whole) == engine._machine.buffers.columns(10**6) == whole
