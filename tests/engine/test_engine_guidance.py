"""Guidance per request, per kind of token and for a stretch of the answer, and what it costs."""

import pytest
from engine_cases import PICTURE, SETS, TEXT, UNCONDITIONAL, ask, drawn_plainly, ids_of, run, small_engine, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from illume_fast.engine import SamplingParams, SamplingSet, Segment


def guided(name, scale=3.0, since=0, until=None, sets=SETS, **rest):
    sampling = SamplingParams(sets=sets, guidance=scale, guidance_from=since, guidance_until=until)
    return ask(name, sampling=sampling, **rest)


@settings(deadline=None, max_examples=15)
@given(
    stretches=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 2.5, -1.0]), st.integers(0, 25), st.none() | st.integers(0, 25)),
        min_size=1,
        max_size=4,
    )
)
def test_any_stretch_is_what_plain_drawing_gives(stretches):
    model = small_model()
    asked = [
        guided(i, scale, since, None if length is None else since + length, n=1 + i % 2)
        for i, (scale, since, length) in enumerate(stretches)
    ]
    answers = run(small_engine(model), asked)
    for request in asked:
        for sample in range(request.n):
            assert answers[request.id, sample] == drawn_plainly(model, request, sample)


def test_after_the_stretch_the_unconditional_branch_is_gone():
    engine, used = small_engine(max_batch=2), []
    list(engine.generate([guided(1, until=8)], on_step=lambda p: used.append(engine.cache.pool.num_used)))
    assert used[-2] < used[0]
    engine.clear()
    alone = []
    list(engine.generate([ask(1)], on_step=lambda p: alone.append(engine.cache.pool.num_used)))
    kept = len(engine._machine.store.kept)
    assert used[-2] - alone[-2] <= 2, kept  # what is left of it is the prompt, kept for later


def test_each_kind_of_token_may_have_a_scale_of_its_own():
    model = small_model()
    sets = (SamplingSet(guidance=4.0), SamplingSet(guidance=1.0), SamplingSet())
    request = guided(3, 1.0, sets=sets)
    assert request.guided
    answer = run(small_engine(model), [request, ask(4, guidance=2.0)])["request 3", 0]
    assert answer == drawn_plainly(model, request)
    assert answer != run(small_engine(model), [ask(3)])["request 3", 0]


def test_negative_prompts_are_unconditional_prompts_of_ones_own():
    model = small_model()
    others = [Segment(ids_of(50 + i, 2 + 7 * i)) for i in range(3)]
    asked = [ask(5, guidance=3.0, unconditional=(other,), seed=9) for other in others]
    asked = [ask(i, prompt=asked[0].prompt, guidance=3.0, unconditional=(o,), seed=9) for i, o in enumerate(others)]
    answers = run(small_engine(model), asked)
    assert [answers[q.id, 0] for q in asked] == [drawn_plainly(model, q) for q in asked]
    assert len({tuple(ids) for ids in answers.values()}) > 1


def test_a_scale_of_a_kind_needs_an_unconditional_prompt_too():
    request = guided(1, 1.0, sets=(SamplingSet(guidance=2.0), *SETS[1:]), unconditional=None)
    (result,) = small_engine().generate([request])
    assert "guidance 2 asked, but there is no unconditional prompt" in str(result.error)


def test_stretches_and_scales_out_of_range():
    for bad in ({"guidance_from": -1}, {"guidance_from": 3, "guidance_until": 2}, {"guidance": float("nan")}):
        with pytest.raises(ValueError, match="guidance"):
            SamplingParams(**bad)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        SamplingSet(guidance=float("inf"))


def test_texts_beside_guided_pictures_pay_for_one_branch():
    model = small_model()
    asked = [guided(1), ask(2, plan=TEXT), guided(3, 2.0, 4, 12, plan=PICTURE), ask(4)]
    answers = run(small_engine(model), asked)
    assert [answers[q.id, 0] for q in asked] == [drawn_plainly(model, q) for q in asked]
    assert UNCONDITIONAL
