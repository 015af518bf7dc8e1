"""What is read once and kept once: prompts, prefixes, pages."""

from dataclasses import replace

import pytest
from engine_cases import FINE, PICTURE, SMALL, ask, drawn_plainly, features_of, ids_of, run, small_engine, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from illume_fast.engine import Plan, Segment


class CountingModel:
    """Passes everything on and notes how many tokens each forward pass held."""

    def __init__(self, model):
        self.model, self.passes = model, []
        self.head, self.embed = model.head, model.embed

    @property
    def decoder(self):
        return self

    @property
    def config(self):
        return self.model.decoder.config

    def __call__(self, embeds, positions, attend):
        self.passes.append(len(embeds))
        return self.model.decoder(embeds, positions, attend)


@pytest.fixture
def counting():
    return CountingModel(small_model())


def read_and_steps(counting, requests, **changes):
    """Tokens of the first pass (the prompts, when read in one) and the number of later ones."""
    counting.passes.clear()
    run(small_engine(counting, invariant=False, graphs=False, read_tokens=512, **changes), requests)
    return counting.passes[0], len(counting.passes) - 1


def test_a_prompt_is_read_once_for_all_its_samples(counting):
    # 13 ids and 2 leading forced ones, once
    assert read_and_steps(counting, [ask(1, length=13, n=8)])[0] == 15


def test_the_unconditional_prompt_is_read_once_for_all_requests(counting):
    requests = [ask(i, length=4 + i, guidance=2.0) for i in range(4)]
    read, _ = read_and_steps(counting, requests)
    assert read == sum(4 + i + 2 for i in range(4)) + 5 + 2


def test_without_sharing_every_stream_reads_its_prompt(counting):
    requests = [ask(i, length=6, guidance=2.0, n=2) for i in range(2)]
    read, _ = read_and_steps(counting, requests, share=False)
    assert read == 2 * 2 * (6 + 2 + 5 + 2)


def test_without_sharing_nothing_stays():
    engine = small_engine(share=False)
    run(engine, [replace(ask(1, length=20, n=3, guidance=2.0), keep=True)])
    assert engine.cache.pool.num_used == 1


def test_answers_do_not_depend_on_sharing():
    model, requests = small_model(), [ask(i // 2, length=9, guidance=1.0 + i % 2, n=3) for i in range(4)]
    requests = [replace(request, id=str(i)) for i, request in enumerate(requests)]
    apart = small_engine(model, share=False, max_batch=5)
    assert run(apart, requests) == run(small_engine(model), requests) == run(apart, requests)


def test_both_branches_share_a_picture_they_begin_with(counting):
    picture = (Segment(ids_of(7, 2)), features_of("cat", 18))
    request = ask(1, prompt=(*picture, Segment((4, 5, 6))), unconditional=(*picture, Segment((9,))), guidance=2.0)
    # 25 tokens, then of 23 all but the 5 pages of 4 that are the same
    assert read_and_steps(counting, [request])[0] == 25 + 23 - 20


def test_forced_ids_take_no_steps(counting):
    assert read_and_steps(counting, [ask(1)])[1] == len(PICTURE.draws) - 1
    assert read_and_steps(counting, [ask(1, plan=SMALL)])[1] == 2


def test_samples_hold_the_prompts_full_pages_once():
    engine = small_engine(max_batch=8)
    used = []
    list(engine.generate([ask(1, length=18, n=8)], on_step=lambda p: used.append(engine.cache.pool.num_used)))
    # 20 tokens with the leading forced ids: 5 pages, all full; 15 more tokens: 5 pages for each sample; scratch
    assert max(used) <= 1 + 5 + 8 * 5
    engine.clear()
    assert engine.cache.pool.num_used == 1


def test_shared_pages_change_nothing():
    model = small_model()
    picture = (Segment(ids_of(7, 2)), features_of("cat", 18))
    requests = [
        ask(i, prompt=(*picture, Segment(ids_of(i, 3))), unconditional=(*picture, Segment((9,))), guidance=2.0, n=2)
        for i in range(4)
    ]
    together = run(small_engine(model), requests)
    assert together == {
        key: ids for request in requests for key, ids in run(small_engine(model, max_batch=1), [request]).items()
    }


def test_features_are_told_apart_by_key():
    model = small_model()
    requests = [ask(i, prompt=(features_of(key, 9), Segment((1,)))) for i, key in enumerate(("a", "b", "a"))]
    assert run(small_engine(model), requests) == {(r.id, 0): drawn_plainly(model, r) for r in requests}


@pytest.mark.parametrize("length", [4, 7, 8, 9, 12])
def test_a_prompt_that_begins_another(length):
    model, plan = small_model(), Plan.of([FINE, 3, FINE, FINE])
    requests = [ask(i, prompt=(Segment(ids_of(50, n)),), plan=plan) for i, n in enumerate((12, length, 16))]
    answers = run(small_engine(model), requests)
    assert answers == {(r.id, 0): drawn_plainly(model, r) for r in requests}


def test_prompts_nobody_uses_make_room():
    engine = small_engine(cache_tokens=100, max_batch=2)
    requests = [ask(i, length=20 + i % 5, guidance=2.0 if i % 2 else 1.0) for i in range(30)]
    assert run(engine, requests) == run(small_engine(max_batch=2), requests)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 3), st.sampled_from([1.0, 2.0]), st.booleans(), st.integers(0, 20)),
        max_size=8,
    ),
    st.integers(80, 300),
    st.integers(1, 9),
    st.integers(0, 30),
    st.booleans(),
)
def test_pages_always_come_back(rows, cache_tokens, page_size, stop_after, share):
    requests = [
        ask(name, n=n, guidance=guidance, length=length + 1, plan=SMALL if small else PICTURE)
        for name, n, guidance, small, length in rows
    ]
    engine = small_engine(_MODEL, cache_tokens=cache_tokens, page_size=page_size, max_batch=5, share=share)
    answers = engine.generate(requests)
    for _, result in zip(range(stop_after), answers, strict=False):
        assert result.error is None or "pages" in str(result.error)
    answers.close()
    engine.check()


_MODEL = small_model()
