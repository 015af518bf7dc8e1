"""What is drawn: equal to the obvious way, legal, and the same whatever else the engine does at the time."""

import random

import pytest
import torch
from engine_cases import (
    FINE,
    PICTURE,
    SETS,
    SMALL,
    TEXT,
    UNCONDITIONAL,
    ask,
    drawn_plainly,
    features_of,
    ids_of,
    run,
    small_engine,
    small_model,
)

from illume_fast.engine import Plan, Request, SamplingParams, SamplingSet, Segment, Site, sample_seed


def mixed_requests() -> list[Request]:
    """Unequal prompts, sizes, guidance and sampling, text among pictures, samples, features and equal prompts."""
    picture = (Segment(ids_of(70, 3)), features_of("a", 9), Segment(ids_of(71, 2)))
    reconstruct = (Segment(ids_of(70, 3)), features_of("a", 9), Segment((8,)))
    return [
        ask(0, guidance=3.0),
        ask(1, n=3, guidance=2.0),
        ask(2, plan=TEXT),
        ask(3),
        ask(4, plan=SMALL, guidance=1.5),
        ask(5, plan=TEXT, guidance=2.5),
        ask(6, prompt=picture, unconditional=reconstruct, guidance=2.0),
        ask(7, greedy=True, guidance=4.0),
        ask(8, prompt=(Segment(ids_of(0, 3)),), guidance=3.0),
        ask(9, length=33, plan=SMALL),
    ]


def test_answers_equal_those_drawn_plainly():
    model = small_model()
    requests = mixed_requests()
    answers = run(small_engine(model), requests)
    for request in requests:
        for sample in range(request.n):
            assert answers[request.id, sample] == drawn_plainly(model, request, sample), (request.id, sample)
    assert len(answers) == 12


def test_plain_and_qk_norm_models_agree_too():
    for changes in ({"qkv_bias": False, "tie_word_embeddings": True}, {"qk_norm": True, "num_key_value_heads": 4}):
        model, request = small_model(3, **changes), ask(3, guidance=2.0)
        assert run(small_engine(model), [request])[request.id, 0] == drawn_plainly(model, request)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_sample_does_not_depend_on_the_batch(batch):
    model, requests = small_model(), mixed_requests()
    alone = {}
    for request in requests:
        alone |= run(small_engine(model, max_batch=1), [request])
    assert run(small_engine(model, max_batch=batch), requests) == alone


def test_a_sample_does_not_depend_on_order_reading_or_pages():
    model, requests = small_model(), mixed_requests()
    expected = run(small_engine(model), requests)
    for seed, changes in enumerate(
        ({}, {"read_tokens": 1}, {"read_tokens": 7}, {"page_size": 16}, {"page_size": 1}, {"cache_tokens": 150})
    ):
        shuffled = random.Random(seed).sample(requests, len(requests))
        assert run(small_engine(model, **changes), shuffled) == expected, changes


def test_guidance_one_reads_no_unconditional_prompt():
    engine = small_engine()
    with_prompt, without = run(engine, [ask(1)]), run(engine, [ask(1, unconditional=None)])
    assert with_prompt == without == run(engine, [ask(1, unconditional=(Segment((19,)),))])


def test_guidance_zero_is_unconditional():
    engine = small_engine()
    mixed = run(engine, [ask(1, guidance=0.0)])
    plain = run(engine, [ask(1, prompt=UNCONDITIONAL, unconditional=None)])
    assert mixed == plain != run(engine, [ask(1)])


def test_guidance_changes_what_is_drawn():
    engine = small_engine()
    assert len({str(run(engine, [ask(1, greedy=True, guidance=g)])) for g in (0.0, 1.0, 3.0)}) == 3


def test_samples_equal_requests_with_their_seeds():
    engine = small_engine()
    samples = run(engine, [ask(2, n=5, guidance=2.0)])
    for k in range(5):
        alone = run(engine, [ask(2, guidance=2.0, seed=sample_seed(2, k))])
        assert alone["request 2", 0] == samples["request 2", k]
    assert len(set(map(tuple, samples.values()))) == 5


def test_sample_seeds():
    assert sample_seed(7, 0) == 7
    seeds = [sample_seed(s, k) for s in range(100) for k in range(1, 100)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_only_legal_ids_are_drawn_and_forced_ones_stand():
    ids = run(small_engine(), [ask(0, n=20, guidance=5.0)])
    for answer in ids.values():
        for drawn, forced, site in zip(answer, PICTURE.forced.tolist(), PICTURE.site.tolist(), strict=True):
            if site < 0:
                assert drawn == forced
            else:
                assert any(lo <= drawn < hi for lo, hi in PICTURE.sites[site].ranges)


def test_a_stop_id_ends_text_and_illegal_ids_are_never_drawn():
    # temperature 50 is near uniform: 400 draws meet every legal id
    hot = SamplingParams(sets=(SamplingSet(temperature=50.0),) * 3)
    long = Plan.text(((0, 9), (10, 20)), 40, [7, 12], set=2)
    requests = [Request(id=str(i), prompt=(Segment(ids_of(i, 4)),), plan=long, sampling=hot, seed=i) for i in range(40)]
    answers = run(small_engine(), requests)
    seen = set()
    for answer in answers.values():
        assert set(answer[:-1]).isdisjoint({7, 12})
        assert len(answer) == 40 or answer[-1] in (7, 12)
        seen |= set(answer)
    assert seen == set(range(20)) - {9}


def test_text_says_how_it_ended():
    engine = small_engine()
    finishes = {r.finish for i in range(20) for r in engine.generate([ask(i, plan=TEXT)])}
    assert finishes == {"stop", "plan"}
    picture = next(engine.generate([ask(0)]))
    assert (picture.finish, picture.seed, picture.ids.dtype) == ("plan", 0, torch.int64)


def test_a_plan_of_forced_ids_alone_needs_no_model():
    request = ask(0, plan=Plan.of([5, 6, 7]))
    assert run(small_engine(), [request])[request.id, 0] == [5, 6, 7]


def test_a_single_draw_after_a_one_token_prompt():
    request = ask(0, plan=Plan.of([FINE]), length=1, guidance=2.0)
    assert run(small_engine(), [request])[request.id, 0] == drawn_plainly(small_model(), request)


def test_sampling_sets_belong_to_their_sites():
    greedy_fine = SamplingParams(sets=(SETS[0], SamplingSet(temperature=0.0)))
    steps = [s for s, site in enumerate(PICTURE.site.tolist()) if site == 1]
    answers = [
        run(small_engine(), [ask(3, sampling=greedy_fine, seed=seed, prompt=(Segment((1, 2)),))]) for seed in (1, 2)
    ]
    assert answers[0] != answers[1]
    request = ask(3, sampling=greedy_fine, seed=1, prompt=(Segment((1, 2)),))
    assert answers[0][request.id, 0] == drawn_plainly(small_model(), request)
    assert steps


@pytest.mark.parametrize("lead", [0, 1, 4, 5])
@pytest.mark.parametrize("length", [1, 3, 4, 5, 8])
def test_prompts_around_page_borders(length, lead):
    plan = Plan.of([1] * lead + [Site(((20, 40),)), 3, 3, 3, 3, 3, Site(((20, 40),)), Site(((20, 40),)), 4])
    model, engine = small_model(), small_engine(max_batch=4)
    request = ask(length, plan=plan, length=length, guidance=2.0, n=2)
    answers = run(engine, [request])
    assert [answers[request.id, k] for k in (0, 1)] == [drawn_plainly(model, request, k) for k in (0, 1)]
