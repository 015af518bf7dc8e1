"""Rows that are filtered twice or penalised for repetitions: what they draw, and that others do not notice."""

from dataclasses import replace

import pytest
from engine_cases import PICTURE, SETS, TEXT, ask, drawn_plainly, features_of, ids_of, run, small_engine, small_model

from illume_fast.engine import SamplingParams, SamplingSet, SecondChain, Segment

THEN = SecondChain(temperature=1.4, top_k=5, top_p=0.8)
PENALTY = 1.5


def asked(**own):
    """Requests of every kind, each with these fields of its `SamplingParams`."""
    picture = (Segment(ids_of(70, 3)), features_of("a", 9), Segment(ids_of(71, 2)))
    plain = [
        ask(0, guidance=3.0),
        ask(1, n=2, guidance=2.0),
        ask(2, length=41),
        ask(3, plan=TEXT),
        ask(4, prompt=picture, guidance=2.0),
        ask(5, guidance=2.0, greedy=True),
    ]
    part = replace(plain[0].sampling, guidance_from=4, guidance_until=11)
    plain.append(replace(plain[0], id="request 6", sampling=part))
    return [replace(request, sampling=replace(request.sampling, **own)) for request in plain]


def plainly(model, requests, noise="inverse"):
    return {(r.id, k): drawn_plainly(model, r, k, noise) for r in requests for k in range(r.n)}


@pytest.mark.parametrize("graphs", [False, None])
@pytest.mark.parametrize(
    "own",
    [{"then": THEN}, {"repetition_penalty": PENALTY}, {"then": THEN, "repetition_penalty": PENALTY}],
    ids=["twice", "penalty", "both"],
)
def test_answers_are_those_drawn_the_slow_way(own, graphs):
    model = small_model()
    requests = asked(**own)
    engine = small_engine(model, graphs=graphs)
    expected = plainly(model, requests)
    assert run(engine, requests) == expected
    assert expected != plainly(model, asked()), "the settings change nothing here"
    if graphs is None and engine.graphs.refusal is None:
        assert run(engine, requests) == expected
        assert engine.graphs.replays > 0


def test_rows_beside_them_stay_what_they_are():
    model = small_model()
    plain = asked()
    odd = [replace(r, id=f"odd {r.id}") for r in asked(then=THEN, repetition_penalty=PENALTY)]
    twice = [replace(r, id=f"twice {r.id}") for r in asked(then=THEN)]
    alone = run(small_engine(model), plain) | run(small_engine(model), odd) | run(small_engine(model), twice)
    mixed = [r for three in zip(odd, plain, twice, strict=True) for r in three]
    for batch in (3, 8):
        assert run(small_engine(model, max_batch=batch), mixed) == alone, batch


@pytest.mark.parametrize("width", [2, 4])
def test_guessing_ahead_changes_nothing(width):
    model = small_model()
    requests = asked(then=THEN, repetition_penalty=PENALTY)
    engine = small_engine(model, speculative=width, speculative_tokens=64, speculative_by_clock=False)
    assert run(engine, requests) == plainly(model, requests, "race")
    assert engine.speculation.steps > 0


def test_a_strong_penalty_repeats_nothing():
    model = small_model()
    sampling = SamplingParams((SamplingSet(),) * 3, repetition_penalty=1e6, then=SecondChain(top_k=3))
    (ids,) = run(small_engine(model), [ask(0, plan=PICTURE, sampling=sampling)]).values()
    drawn = [i for step, i in enumerate(ids) if PICTURE.forced[step] < 0]
    assert len(drawn) - len(set(drawn)) <= 1


def test_what_cannot_be_is_refused():
    for build, message in (
        (lambda: SecondChain(temperature=0.0), "temperature must be a finite positive number, .*got 0.0"),
        (lambda: SecondChain(top_k=-1), "second chain: top_k must be"),
        (lambda: SecondChain(top_p=float("nan")), "second chain: top_p must lie"),
        (lambda: SamplingParams(SETS, repetition_penalty=0.0), "repetition_penalty must be a finite positive"),
        # what the tables' float32 and int64 would not hold
        (lambda: SecondChain(temperature=1e-50), "second chain: temperature must be .*got 1e-50"),
        (lambda: SamplingSet(temperature=1e39), r"temperature must be .* 1.2e-38 to 3.4e\+38, got 1e\+39"),
        (lambda: SamplingSet(guidance=-1e39), r"guidance must be a finite number, at most 3.4e\+38, got -1e\+39"),
        (lambda: SamplingParams(SETS, guidance=1e39), r"guidance must be .*got 1e\+39"),
        (lambda: SamplingParams(SETS, repetition_penalty=1e39), r"repetition_penalty must be .*got 1e\+39"),
        (lambda: SamplingSet(top_k=2**63), r"top_k must be .*, below 2\*\*63, got 9223372036854775808"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
