"""What the engine refuses, survives and gives back."""

import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, ask, errors, run, small_engine, small_model

from illume_fast.engine import EngineConfig, Plan, Progress, RequestError, SamplingParams, SamplingSet, Segment, Site


def everything(engine, requests):
    return list(engine.generate(requests))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ask(1, guidance=2.0, unconditional=None), "guidance 2 asked, but there is no unconditional prompt"),
        (ask(1, guidance=2.0, unconditional=()), "guidance 2 asked, but there is no unconditional prompt"),
        (ask(1, prompt=()), "the prompt is empty"),
        (ask(1, n=0), "n must be at least 1, got 0"),
        (ask(1, seed=-1), "seed must lie in"),
        (ask(1, seed=2**63), "seed must lie in"),
        (ask(1, sampling=SamplingParams()), "the plan uses 2 sampling sets, but 1 were given"),
        (ask(1, prompt=(Segment((5, 64)),)), "the prompt holds id 64, allowed are 0 to 63"),
        (ask(1, prompt=(Segment((5, -200)),)), "the prompt holds id -200, allowed are 0 to 63"),
        (ask(1, plan=Plan.of([Site(((60, 65),))])), "the plan holds id 64, the vocabulary ends at 63"),
        (ask(1, plan=Plan.of([99, Site(((60, 64),))])), "the plan holds id 99, the vocabulary ends at 63"),
        (ask(1, prompt=(Segment(features=torch.zeros(3, 31), key="k"),)), "features are 31 wide"),
        (ask(1, length=240), "prompt and answer are 264 tokens long, the model takes 256"),
    ],
)
def test_bad_requests_fail_by_name_and_the_others_go_on(request_, reason):
    engine = small_engine()
    results = everything(engine, [ask(2), request_, ask(3)])
    found = errors(results)
    assert list(found) == ["request 1"]
    assert found["request 1"].startswith("request 'request 1': ")
    assert reason in found["request 1"]
    assert "\n" not in found["request 1"]
    good = {r.request.id: r.ids.tolist() for r in results if r.error is None}
    assert good == {request.id: run(engine, [request])[request.id, 0] for request in (ask(2), ask(3))}


def test_a_request_too_large_is_refused_at_once_with_the_numbers():
    engine = small_engine(cache_tokens=40)
    results = everything(engine, [ask(1, length=35, n=3), ask(2, length=4, plan=SMALL)])
    assert [r.request.id for r in results] == ["request 1", "request 2"]
    # 37 tokens with the leading forced ids: 10 pages; the sample's last page of those and 5 for 18 drawn tokens
    assert errors(results) == {
        "request 1": "request 'request 1': a prompt of 37 tokens and an answer of 24 need 15 pages of 4 tokens,"
        " the cache has 10"
    }


def test_the_largest_request_that_fits_runs():
    request = ask(1, length=35)
    assert run(small_engine(cache_tokens=60), [request]) == run(small_engine(), [request])
    assert errors(everything(small_engine(cache_tokens=56), [request]))


def test_nan_weights_fail_every_request_by_name_and_give_pages_back():
    model = small_model()
    model.model.layers[1].mlp.down_proj.weight[0] = torch.nan
    engine = small_engine(model)
    steps = []
    results = list(engine.generate([ask(1), ask(2, plan=TEXT), ask(3, guidance=2.0, n=2)], on_step=steps.append))
    assert len(results) == 4
    assert all(isinstance(r.error, RequestError) and r.ids.numel() == 0 for r in results)
    assert errors(results)["request 2"] == "request 'request 2': no finite logit at step 0 of 12; NaN in the model?"
    assert "at step 2 of 24" in errors(results)["request 3"]
    assert len(steps) == 1


def test_nan_that_comes_later_is_found_at_the_end():
    model = small_model()
    request = ask(1)
    step = int(PICTURE.draws[3])
    model.model.embed_tokens.weight[run(small_engine(model), [request])[request.id, 0][step]] = torch.nan
    results = everything(small_engine(model), [request, ask(2, plan=TEXT)])
    assert list(errors(results)) == ["request 1"]
    assert "no finite logit at step" in errors(results)["request 1"]


def test_features_with_nan_harm_nobody_else():
    bad = Segment(features=torch.full((5, 32), torch.nan), key="nan")
    results = everything(small_engine(), [ask(1), ask(2, prompt=(bad, Segment((3,)))), ask(3)])
    assert list(errors(results)) == ["request 2"]
    good = {r.request.id: r.ids.tolist() for r in results if r.error is None}
    assert good == {request.id: run(small_engine(), [request])[request.id, 0] for request in (ask(1), ask(3))}


def test_results_come_as_they_finish():
    requests = [ask(1, plan=PICTURE), ask(2, plan=SMALL), ask(3, plan=SMALL), ask(4, plan=PICTURE)]
    order = [r.request.id for r in small_engine(max_batch=2).generate(requests)]
    # two at a time: while 1 is drawn, 2 and 3 are drawn beside it one after the other, and 4 begins
    assert order == ["request 2", "request 3", "request 1", "request 4"]


def test_requests_are_read_as_room_appears():
    taken = []

    def requests():
        for i in range(100):
            taken.append(i)
            yield ask(i, plan=SMALL)

    answers = small_engine(max_batch=4).generate(requests())
    next(answers)
    assert len(taken) <= 5
    assert len(list(answers)) == 99


def test_a_failing_iterator_ends_the_run_and_leaves_the_engine_usable():
    def requests():
        yield ask(1)
        yield ask(2)
        raise OSError("disk gone")

    engine = small_engine()
    with pytest.raises(OSError, match="disk gone"):
        everything(engine, requests())
    engine.clear()
    assert engine.cache.pool.num_used == 1
    assert run(engine, [ask(1)])


def test_a_failing_model_ends_the_run_and_leaves_the_engine_usable(monkeypatch):
    model = small_model()
    engine, embed, calls = small_engine(model), model.embed, []

    def failing(ids):
        calls.append(ids)
        if len(calls) == 5:
            raise MemoryError("no room")
        return embed(ids)

    monkeypatch.setattr(model, "embed", failing)
    with pytest.raises(MemoryError, match="no room"):
        everything(engine, [ask(i, guidance=2.0, n=2) for i in range(6)])
    engine.clear()
    assert engine.cache.pool.num_used == 1
    assert run(engine, [ask(1)]) == run(small_engine(model), [ask(1)])


def test_a_consumer_that_stops_gives_all_pages_back():
    engine = small_engine()
    for taken in range(4):
        answers = engine.generate([ask(i, n=3, guidance=2.0) for i in range(6)])
        for _ in range(taken):
            next(answers)
        answers.close()
        engine.clear()
        assert engine.cache.pool.num_used == 1
    engine.check()


def test_one_run_at_a_time():
    engine = small_engine()
    first = engine.generate([ask(1), ask(2)])
    next(first)
    with pytest.raises(RuntimeError, match="already generating"):
        next(engine.generate([ask(3)]))
    first.close()
    assert run(engine, [ask(3)])


def test_a_leak_is_reported():
    engine = small_engine()
    run(engine, [ask(1)])
    pool = engine.cache.pool
    leaked = pool.new()
    pool.append(leaked, 9)
    with pytest.raises(RuntimeError, match=r"1 sequences were never freed .* they hold 3 pages"):
        engine.check()
    pool.free(leaked)


def test_progress_counts():
    seen: list[Progress] = []
    results = list(small_engine(max_batch=2).generate([ask(i, plan=SMALL) for i in range(5)], seen.append))
    assert len(results) == 5
    assert seen[-1].finished == 5
    assert seen[-1].drawn == 5 * 3
    assert [p.step for p in seen] == list(range(1, len(seen) + 1))
    assert max(p.active for p in seen) == 2


def test_no_requests():
    assert everything(small_engine(), []) == []


@pytest.mark.parametrize("name", ["max_batch", "page_size", "read_tokens", "cache_tokens"])
def test_config_refuses_nonsense(name):
    with pytest.raises(ValueError, match=f"EngineConfig.{name}: must be at least 1, got 0"):
        EngineConfig(**{name: 0})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: SamplingSet(temperature=-1.0), "temperature must be"),
        (lambda: SamplingSet(temperature=float("nan")), "temperature must be"),
        (lambda: SamplingSet(top_k=-1), "top_k must be"),
        (lambda: SamplingSet(top_p=1.5), "top_p must lie"),
        (lambda: SamplingSet(min_p=float("nan")), "min_p must lie"),
        (lambda: SamplingParams(guidance=float("inf")), "guidance must be a finite"),
        (lambda: SamplingParams(sets=()), "at least one sampling set"),
        (lambda: Segment(ids=(1,), features=torch.zeros(1, 2), key="a"), "not both"),
        (lambda: Segment(features=torch.zeros(1, 2)), "need a key"),
        (lambda: Segment(features=torch.zeros(2), key="a"), r"must be \[n, H\]"),
        (lambda: Segment(ids=(1,), key="a"), "a key belongs to features"),
        (lambda: Site(()), "at least one range"),
        (lambda: Site(((5, 5),)), "ascending, disjoint and not empty"),
        (lambda: Site(((5, 9), (8, 10))), "ascending, disjoint and not empty"),
        (lambda: Site(((5, 9),), set=-1), "must not be negative"),
        (lambda: Plan.of([]), "not empty"),
        (lambda: Plan.of([-5]), "must not be negative"),
        (lambda: Plan.text(((0, 9),), 0, []), "max_tokens must be at least 1"),
    ],
)
def test_parts_refuse_nonsense(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()
