"""Guessing ahead changes how many steps there are, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_cases import (
    COARSE,
    FINE,
    PICTURE,
    SETS,
    SMALL,
    TEXT,
    WORDS,
    ask,
    drawn_plainly,
    errors,
    features_of,
    ids_of,
    run,
    small_engine,
    small_model,
)

from illume_fast.engine import Plan, Request, SamplingParams, SamplingSet, Segment, Site
from illume_fast.kernels import native
from illume_fast.model.attention import CausalAttention

needs_kernels = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


INSERT = Plan.of([1, COARSE, COARSE, 3, FINE, FINE, 7])
INTERLEAVED = Plan.text(
    WORDS.ranges, 14, stop_ids=[12], set=2, inserts=dict.fromkeys((3, 5, 15, 17), INSERT), max_inserts=2
)


def guessing(model=None, width=4, **changes):
    """Guesses in every step; when it pays is the matter of test_engine_trials.py."""
    settings = {"speculative": width, "speculative_tokens": 512, "speculative_by_clock": False}
    return small_engine(model, **{**settings, **changes})


def plain(model=None, **changes):
    """The same noise, one draw a step."""
    return guessing(model, speculative_tokens=0, **changes)


def scheduled(name, since, until):
    return ask(name, sampling=SamplingParams(sets=SETS, guidance=3.0, guidance_from=since, guidance_until=until))


def some_requests():
    picture = (Segment(ids_of(70, 3)), features_of("a", 9), Segment(ids_of(71, 2)))
    return [
        ask(0, guidance=3.0), ask(1, n=3, guidance=2.0), ask(2, plan=SMALL), ask(3, plan=TEXT), ask(4, greedy=True),
        ask(5, guidance=0.0), ask(6, plan=TEXT, guidance=1.5), ask(7, length=41), ask(8, plan=TEXT, n=3),
        ask(13, plan=INTERLEAVED, n=2, guidance=2.0),
        scheduled(9, 5, 14), scheduled(10, 0, 12), ask(11, plan=Plan.of([Site(((20, 36),))])), ask(12, prompt=picture),
    ]  # fmt: skip


def agreeable_model():
    """One whose distributions hardly depend on what came before, so that guesses come out right."""
    model = small_model()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(0.05)
    return model


@pytest.mark.parametrize("make", [small_model, agreeable_model])
@pytest.mark.parametrize("width", range(2, 9))
def test_answers_are_those_of_one_draw_a_step(make, width):
    model = make()
    expected = run(plain(model), some_requests())
    for batch in (1, 3, 8):
        engine = guessing(model, width, max_batch=batch)
        assert run(engine, some_requests()) == expected, batch
        assert engine.speculation.row_steps > 0


def test_answers_are_those_of_whole_passes():
    model = small_model()
    asked = [r for r in some_requests() if r.id not in ("request 9", "request 10")]
    for (name, sample), ids in run(guessing(model, 3), asked).items():
        request = next(r for r in asked if r.id == name)
        assert ids == drawn_plainly(model, request, sample, noise="race")


def test_reading_sharing_and_pages_do_not_matter():
    model = small_model()
    expected = run(plain(model), some_requests())
    for changes in ({"read_tokens": 5}, {"page_size": 32, "cache_tokens": 640}, {"page_size": 1}, {"graphs": False}):
        assert run(guessing(model, 5, **changes), some_requests()[::-1]) == expected, changes


def test_steps_that_guess_and_steps_that_do_not_may_take_turns():
    model = small_model()
    expected = run(plain(model), some_requests())
    engine = guessing(model, 3, speculative_tokens=12)
    assert run(engine, some_requests()) == expected
    assert 0 < engine.speculation.row_steps < sum(len(ids) for ids in expected.values())


def test_a_batch_that_is_too_large_does_not_guess():
    for rows, guidance, guesses in ((2, 1.0, True), (3, 1.0, False), (1, 2.0, True), (2, 2.0, False)):
        engine = guessing(width=4, speculative_tokens=8)
        run(engine, [ask(0, n=rows, guidance=guidance)])
        assert (engine.speculation.row_steps > 0) == guesses, (rows, guidance)


@pytest.mark.parametrize("width", [None, 0, 1])
def test_off_is_off(width):
    model = small_model()
    engine = guessing(model, width)
    assert engine.speculation is None
    assert run(engine, some_requests()) == run(small_engine(model), some_requests())


def test_what_was_kept_is_reported():
    engine, seen = guessing(agreeable_model(), 4), []
    results = list(engine.generate([ask(0)], on_step=seen.append))
    assert [r.error for r in results] == [None]
    # the first draw is made behind the prompt; then windows of four, and what is left
    draws = len(PICTURE.draws) - 1
    steps = engine.speculation.row_steps
    assert engine.speculation.accepted == draws
    assert engine.speculation.steps == seen[-1].guessed == steps
    assert seen[-1].accepted == pytest.approx(draws / steps)
    assert seen[-1].drawn == draws + 1
    assert seen[0].accepted is None
    assert 1.5 < draws / steps <= 4
    assert len(seen) == steps + 1


@needs_kernels
def test_steps_are_replayed():
    model, asked = small_model(), [ask(0), ask(5, guidance=2.0)]
    engine = guessing(model, graphs=True, width=3, max_batch=1)
    expected = run(plain(model), asked)
    for _ in range(4):
        assert run(engine, asked) == expected
    assert engine.graphs.refusal is None
    assert engine.graphs.replays > engine.graphs.recorded > 0


def test_partial_answers_are_the_same():
    model = agreeable_model()
    asked = [replace(r, partial_every=every) for r, every in zip(some_requests(), (1, 2, 3, 4, 5) * 3, strict=False)]

    def told(engine):
        seen = {}

        def tell(partial):
            seen.setdefault((partial.request.id, partial.sample), []).append(partial.ids.tolist())

        list(engine.generate(asked, on_partial=tell))
        return seen

    assert told(guessing(model, 4)) == told(plain(model))


def test_a_broken_model_is_told_by_name():
    model = small_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[30] = float("nan")  # once it is drawn and fed
    asked = [ask(name, n=2) for name in range(4)]
    told = [errors(list(engine.generate(asked))) for engine in (plain(model), guessing(model, 4))]
    assert told[0] == told[1]
    assert any("no finite logit at step" in reason for reason in told[0].values())


def test_cancelled_rows_give_their_pages_back():
    engine = guessing(agreeable_model(), 3, max_batch=3)
    asked = [ask(name, guidance=2.0) for name in range(6)]
    finished = {}
    for result in engine.generate(
        asked, on_step=lambda p: engine.cancel(f"request {p.step % 6}") if p.step > 2 else None
    ):
        finished[result.request.id] = result.finish
    assert len(finished) == 6
    assert "cancelled" in finished.values()


def test_the_distribution_is_exact():
    """Chi-square of the last three of six draws over 4 000 samples; 99.99 % point for 26 degrees of freedom: 62."""
    model, few, samples = small_model(), Site(((20, 23),)), 4000
    plan = Plan.of([1, few, few, 3, few, few, few, few])
    sampling = SamplingParams(sets=(SamplingSet(temperature=2.5),))
    request = Request(id="r", prompt=(Segment(ids_of(1, 5)),), plan=plan, sampling=sampling, n=samples)
    engine = guessing(model, 3, max_batch=32)
    seen = np.zeros((3, 3, 3))
    for result in engine.generate([request]):
        seen[tuple(result.ids[-3:] - 20)] += 1
    assert engine.speculation.accepted_per_step > 1.2
    wanted = samples * probabilities(model, request, 2.5)
    assert ((seen - wanted) ** 2 / wanted).sum() < 62


@torch.no_grad()
def probabilities(model, request, temperature):
    """[3, 3, 3]: of the last three draws of a plan [1, draw, draw, 3, draw, draw, draw, draw] from ids 20 to 22."""
    every = torch.cartesian_prod(*[torch.arange(3)] * 6)  # all answers
    ones, prompt = torch.ones_like(every[:, :1]), torch.tensor(request.prompt[0].ids)
    ids = torch.cat([prompt.expand(len(every), -1), ones, every[:, :2] + 20, 3 * ones, every[:, 2:] + 20], 1)
    hidden = model.decoder(model.embed(ids), torch.arange(ids.shape[1]).expand(ids.shape), CausalAttention())
    drawn_at = torch.tensor([1, 2, 4, 5, 6, 7]) + len(prompt)
    logits = F.linear(hidden[:, drawn_at - 1], model.head_weight)[..., 20:23].double() / temperature
    each = logits.softmax(-1).gather(2, every[..., None])[..., 0]
    return each.prod(1).view(27, 3, 3, 3).sum(0).numpy()


def test_bad_settings_are_named():
    for name in ("speculative", "speculative_tokens"):
        with pytest.raises(ValueError, match=rf"EngineConfig.{name}: must not be negative, got -1"):
            guessing(**{name: -1} if name == "speculative_tokens" else {"width": -1})
