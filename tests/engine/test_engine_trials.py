"""When steps guess: a rule over measured times, tried here on a clock of our own."""

import itertools
import random

import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, WORDS, ask, run, small_engine, small_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from illume_fast.engine import Plan
from illume_fast.engine.clock import HostClock, StreamClock
from illume_fast.engine.trials import LONGEST, TRIAL, Trials
from illume_fast.kernels import native

needs_kernels = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
INTERLEAVED = Plan.text(WORDS.ranges, 10, stop_ids=[7], set=2, inserts={5: SMALL, 6: PICTURE}, max_inserts=2)


class Watch:
    """A clock that is told how long things take."""

    def __init__(self):
        self.now = 0.0

    def mark(self):
        return self.now

    def seconds(self, since, until):
        return until - since


def steps(trials, watch, count, plain, guessing, kept):
    """Make so many steps of so many seconds; yield which of them guessed. Each number may be a function of the step."""
    for at in range(count):
        guesses = trials.guesses
        began = watch.mark()
        seconds = guessing if guesses else plain
        watch.now += seconds(at) if callable(seconds) else seconds
        trials.add((kept(at) if callable(kept) else kept) if guesses else 1, began, watch.mark())
        yield guesses


def started():
    watch = Watch()
    return Trials(watch), watch


def most_lost(count):
    """Steps that may go the worse way: the first stretch and its trial, and trials behind rests of 8, 16, ... steps."""
    rests = itertools.chain((TRIAL << k for k in range(6)), itertools.repeat(LONGEST))
    ends = itertools.accumulate(rest + TRIAL for rest in rests)
    return TRIAL * (2 + sum(1 for _ in itertools.takewhile(lambda end: end <= count, ends)))


@given(plain=st.floats(1e-5, 10), cost=st.floats(0.8, 8), kept=st.floats(1, 8), count=st.integers(1, 3000))
@settings(max_examples=50)
def test_few_steps_go_the_worse_way(plain, cost, kept, count):
    trials, watch = started()
    guessed = sum(steps(trials, watch, count, plain, plain * cost, kept))
    gain = kept / cost
    if gain > 1.001:
        assert count - guessed <= most_lost(count)
    elif gain < 0.999:
        assert guessed <= most_lost(count)


def test_in_the_long_run_one_step_in_65_is_lost():
    for kept, better in ((3.0, True), (1.2, False)):
        trials, watch = started()
        ways = list(steps(trials, watch, 100_000, 1.0, 2.0, kept))
        assert ways.count(not better) <= 100_000 / 65 + 100


@given(
    before=st.tuples(st.floats(0.5, 4), st.floats(1, 4)),
    after=st.tuples(st.floats(0.5, 4), st.floats(1, 4)),
    count=st.integers(0, 3000),
)
@settings(max_examples=30)
def test_it_follows_when_costs_change(before, after, count):
    """`before` and `after` are seconds of a step that guesses, and the draws it keeps; others take a second."""
    seconds, kept = after
    assume(not 0.8 < kept / seconds < 1.25)
    better = kept > seconds
    trials, watch = started()
    list(steps(trials, watch, count, 1.0, *before))
    # until what is remembered of the time before is gone, comparisons may contradict each other
    list(steps(trials, watch, 4 * LONGEST, 1.0, seconds, kept))
    ways = list(steps(trials, watch, 4 * LONGEST, 1.0, seconds, kept))
    assert ways.count(not better) <= most_lost(len(ways))


@given(
    load=st.lists(st.floats(1, 30), min_size=1, max_size=12),
    each=st.integers(40, 400),
    cost=st.sampled_from([0.5, 1.5, 3.0, 6.0]),
)
@settings(max_examples=30)
def test_a_busy_machine_does_not_matter(load, each, cost):
    """A load that changes between a trial and the steps before it spoils one comparison, not the decision."""
    trials, watch = started()

    def under_load(seconds):
        return lambda at: seconds * load[at // each % len(load)]

    ways = list(steps(trials, watch, 4000, under_load(1.0), under_load(cost), 2.0))
    assert ways.count(cost > 2) <= 1000


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_steps_that_waited_do_not_matter(seed):
    chance = random.Random(seed)
    trials, watch = started()

    def sometimes_late(seconds):
        return lambda _: seconds * (1000 if chance.random() < 0.1 else 1)

    ways = list(steps(trials, watch, 4000, sometimes_late(1.0), sometimes_late(1.5), 3.0))
    assert ways.count(False) <= 400


class Told:
    """A clock by which steps of `engine` that guess take so many seconds, and others one."""

    def __init__(self, engine, seconds):
        self.engine, self.guessing = engine, seconds

    def mark(self):
        return self.engine.speculation.steps

    def seconds(self, since, until):
        return self.guessing() if until > since else 1.0


def timed(model, seconds, **changes):
    engine = small_engine(model, speculative=4, speculative_tokens=64, **changes)
    engine.speculation.clock = Told(engine, seconds)
    return engine


def guessed(engine, requests):
    """How many of the steps guessed, and how many there were."""
    seen = []
    list(engine.generate(requests, on_step=seen.append))
    return seen[-1].guessed, seen[-1].step


def test_an_engine_guesses_where_it_pays():
    asked = [ask(0, n=64, guidance=guidance) for guidance in (1.0, 2.0)]
    for requests in ([asked[0]], [asked[1]], asked):
        some, steps = guessed(timed(small_model(), lambda: 0.9, max_batch=1), requests)
        assert some > 0.8 * steps
        some, steps = guessed(timed(small_model(), lambda: 5.0, max_batch=1), requests)
        assert TRIAL <= some < 0.15 * steps


def test_what_pays_is_found_out_for_each_number_of_rows():
    engine = timed(small_model(), lambda: 0.9)
    guessed(engine, [ask(0, n=64)])
    alone, steps = guessed(engine, [ask(1)])
    # another number of rows is tried anew, though many rows have shown that it pays
    assert alone <= steps - TRIAL


def test_a_batch_beyond_the_limit_is_not_tried():
    some, _ = guessed(timed(small_model(), lambda: 0.1, max_batch=17), [ask(0, n=17)])
    assert some == 0


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_answers_do_not_depend_on_the_clock(max_batch):
    model, chance = small_model(), random.Random(max_batch)
    plans = (PICTURE, TEXT, SMALL, INTERLEAVED)
    asked = [ask(i, plan=plans[i % 4], guidance=(1.0, 2.0, 3.0)[i % 3], n=2) for i in range(24)]
    expected = run(small_engine(model, speculative=4, speculative_tokens=0), asked)
    engine = timed(model, lambda: chance.choice((0.1, 10.0)), max_batch=max_batch)
    seen = []
    for result in engine.generate(asked, on_step=seen.append):
        assert result.ids.tolist() == expected[result.request.id, result.sample]
    ways = [b.guessed - a.guessed for a, b in itertools.pairwise(seen)]
    assert sum(a != b for a, b in itertools.pairwise(ways)) >= 4


@needs_kernels
def test_taking_turns_makes_few_more_shapes():
    model, chance = small_model(), random.Random(0)
    asked = [ask(0, n=40), ask(1, n=40, guidance=2.0)]
    engines = [
        small_engine(model, graphs=True, max_batch=1, speculative=4, speculative_by_clock=False, speculative_tokens=t)
        for t in (0, 64)
    ]
    engines.append(timed(model, lambda: chance.choice((0.1, 10.0)), graphs=True, max_batch=1))
    for engine in engines:
        run(engine, asked)
    plain, always, turns = (engine.graphs.recorded for engine in engines)
    assert turns <= 2 * (plain + always)


def test_seconds_of_the_host():
    clock = HostClock()
    marks = [clock.mark() for _ in range(3)]
    assert 0 <= clock.seconds(marks[0], marks[1]) <= clock.seconds(marks[0], marks[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_seconds_of_a_stream():
    device = torch.device("cuda")
    clock, x = StreamClock(device), torch.randn(4096, 4096, device=device)
    marks = [clock.mark()]
    for products in (1, 50):
        for _ in range(products):
            x @ x
        marks.append(clock.mark())
    assert 0 < clock.seconds(*marks[:2]) < clock.seconds(*marks[1:])


def test_a_clock_too_coarse_to_tell_leaves_guessing_off():
    trials, watch = started()
    assert sum(steps(trials, watch, 400, 0.0, 0.0, 3)) <= most_lost(400)
