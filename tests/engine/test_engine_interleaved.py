"""Words, a picture, words: plans that another is put into, and turns that go on from kept ones."""

import pytest
from engine_cases import (
    COARSE,
    FINE,
    PICTURE,
    SETS,
    TEXT,
    WORDS,
    ask,
    drawn_plainly,
    ids_of,
    run,
    small_engine,
    small_model,
)

from illume_fast.engine import Plan, SamplingParams, SamplingSet, Segment, Site

# of the legal words, three begin a picture and two end the answer
INSERT = Plan.of([1, COARSE, COARSE, 3, FINE, FINE, 7])
BEGIN = {3: INSERT, 5: INSERT, 15: Plan.of([2, FINE])}
MIXED = Plan.text(WORDS.ranges, 14, stop_ids=[12], set=2, inserts=BEGIN, max_inserts=2)


def test_answers_equal_those_drawn_plainly():
    model = small_model()
    asked = [ask(i, plan=MIXED, n=2, guidance=(1.0, 2.0)[i % 2]) for i in range(12)] + [ask(20), ask(21, plan=TEXT)]
    answers = run(small_engine(model, max_batch=5), asked)
    assert answers == run(small_engine(model, max_batch=8, graphs=False), asked[::-1])
    for request in asked:
        for sample in range(request.n):
            assert answers[request.id, sample] == drawn_plainly(model, request, sample)
    lengths = {len(ids) for (name, _), ids in answers.items() if name not in ("request 20", "request 21")}
    assert max(lengths) > 14 > min(lengths), "some answers should have pictures in them, and some end early"


def test_words_may_be_unguided_and_pictures_guided():
    model = small_model()
    sets = (*SETS[:2], SamplingSet(guidance=1.0))
    asked = [ask(i, plan=MIXED, sampling=SamplingParams(sets=sets, guidance=3.0)) for i in range(8)]
    answers = run(small_engine(model), asked)
    assert [answers[q.id, 0] for q in asked] == [drawn_plainly(model, q) for q in asked]


def test_an_insert_begins_with_the_first_token():
    model = small_model()
    plan = Plan.text([(3, 4)], 2, stop_ids=[], set=2, inserts={3: INSERT}, max_inserts=1)
    # once no picture is left to begin, its id is not legal: there is nothing else here
    with pytest.raises(ValueError, match="at least one range"):
        plan.with_insert(0, 3)
    plan = Plan.text([(3, 5)], 4, stop_ids=[], set=2, inserts={3: INSERT}, max_inserts=1)
    first = [ask(i, plan=plan) for i in range(6)]
    answers = run(small_engine(model), first)
    assert any(ids[0] == 3 for ids in answers.values())
    assert all(ids.count(3) <= 2 and len(ids) in (4, 11) for ids in answers.values())  # 3 also ends a row of INSERT


def test_what_a_plan_with_inserts_may_be():
    assert (MIXED.most_steps, MIXED.most_draws, MIXED.most_cached) == (14 + 2 * 7, 14 + 2 * 4, 13 + 2 * 7)
    assert MIXED.highest_id == 63
    spliced = MIXED.with_insert(2, 5)
    assert len(spliced) == 21
    assert spliced.max_inserts == 1
    assert spliced.with_insert(12, 15).sites[0] == Site(((0, 3), (4, 5), (6, 9), (10, 15), (16, 20)), 2)
    with pytest.raises(ValueError, match="both or neither"):
        Plan.text([(0, 5)], 3, stop_ids=[], max_inserts=1)
    with pytest.raises(ValueError, match="inserts nor stop ids of its own"):
        Plan.text([(0, 5)], 3, stop_ids=[], inserts={1: TEXT}, max_inserts=1)


def test_room_is_kept_for_the_longest_answer():
    model = small_model()
    (result,) = small_engine(model, cache_tokens=24, page_size=1).generate([ask(1, plan=MIXED, length=3)])
    assert "an answer of 28 need 30 pages" in str(result.error)
    fits = small_engine(model, cache_tokens=30, page_size=1)
    assert len(run(fits, [ask(i, plan=MIXED, length=3) for i in range(9)])) == 9


def turn(engine, model, keep, conversation, name, **rest):
    request = ask(name, prompt=(Segment(tuple(conversation)),), keep=keep, **rest)
    answer = run(engine, [request])[request.id, 0]
    assert answer == drawn_plainly(model, request)
    return answer


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_conversation_reads_only_what_is_new(guidance):
    model, read = small_model(), {}
    for keep in (True, False):
        engine, passes = small_engine(model, page_size=4, graphs=False), []
        decoder = model.decoder.forward
        model.decoder.forward = lambda embeds, *rest, p=passes, d=decoder: p.append(len(embeds)) or d(embeds, *rest)
        talk = list(ids_of(1, 9))
        for name in range(3):
            passes.clear()
            talk += turn(engine, model, keep, talk, name, guidance=guidance, plan=PICTURE)
            talk += ids_of(10 + name, 3)
        read[keep] = passes[0]
        model.decoder.forward = decoder
    # the prompt of the turn before is found either way; its answer, but for a page or so, where it was kept
    assert read[True] <= read[False] - len(PICTURE) + 4


def test_kept_answers_make_room_for_others():
    engine = small_engine(cache_tokens=160, page_size=4)
    for name in range(12):
        run(engine, [ask(name, keep=True, n=2)])
    assert engine._machine.store.kept
