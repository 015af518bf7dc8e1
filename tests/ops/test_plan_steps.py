"""The three ops against a walk through the plans in plain Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import plan_draw, plan_feed, plan_record, use_backend

BACKENDS = backend_names(plan_feed)


class Plans:
    """Random plans and how far each slot got; the last slot fills batches up."""

    def __init__(self, slots, seed=0):
        gen = torch.Generator().manual_seed(seed)

        def some(low, high, *size):
            return torch.randint(low, high, size, generator=gen)

        self.steps = [sorted(torch.randperm(12, generator=gen)[: int(some(2, 9))].tolist()) for _ in range(slots)]
        self.steps.append([0, 1])
        draws = max(map(len, self.steps)) + 1
        self.drawn = torch.tensor([*(int(some(1, len(s))) for s in self.steps[:-1]), 1])
        self.draw_step = torch.tensor([s + [0] * (draws - len(s)) for s in self.steps])
        self.answers = some(-1, 50, slots + 1, 12)
        self.latest = torch.zeros(slots + 1, dtype=torch.int64)
        self.kind = some(0, 3, slots + 1, draws)
        shape = (slots + 1, 3)
        self.sampling = [torch.rand(shape), some(0, 99, *shape), *(torch.rand(shape) for _ in range(3))]
        start = some(0, 6, slots + 1)
        self.of_slot = [start, start + some(0, 8, slots + 1), some(0, 2**40, slots + 1)]

    @property
    def tables(self):
        return [t.to(DEVICE) for t in (self.answers, self.draw_step, self.drawn)]

    @property
    def settings(self):
        return [t.to(DEVICE) for t in (self.kind, *self.sampling, *self.of_slot)]


def on_device(*values):
    return [torch.tensor(v, dtype=torch.int64, device=DEVICE) for v in values]


def fed_plainly(plans, slot_of, start, filler, page_size, tokens):
    fed, last = [], []
    for s, slot in enumerate(slot_of):
        first, stop = (plans.steps[slot][int(plans.drawn[slot]) + i] for i in (-1, 0))
        fed += [(max(int(plans.answers[slot, step]), 0), start[s] + step, s) for step in range(first, stop)]
        last.append(len(fed) - 1)
    fed += [(0, i % page_size, filler) for i in range(tokens - len(fed))]
    return [*zip(*fed, strict=True)], last


@given(data=st.data(), slots=st.integers(1, 6), room=st.integers(0, 9))
def test_feeding(data, slots, room):
    plans = Plans(slots, seed=data.draw(st.integers(0, 99)))
    slot_of = data.draw(st.lists(st.integers(0, slots), min_size=1, max_size=8))
    start = [7 * s for s in range(len(slot_of))]
    whole, last = fed_plainly(plans, slot_of, start, 99, 4, 0)
    tokens = len(whole[0]) + room
    expected, _ = fed_plainly(plans, slot_of, start, 99, 4, tokens)
    for backend in backends_here(plan_feed):
        with use_backend(backend):
            *outputs, ends = plan_feed(*plans.tables, *on_device(slot_of, start), 99, 4, tokens)
        assert [tuple(out.tolist()) for out in outputs] == expected
        assert ends.tolist() == last


@given(data=st.data(), slots=st.integers(1, 6))
def test_parameters_of_draws(data, slots):
    plans = Plans(slots, seed=data.draw(st.integers(0, 99)))
    order = data.draw(st.lists(st.integers(0, slots), max_size=9))
    *sampling, guidance = plans.sampling
    since, until, seed = plans.of_slot
    rows = []
    for slot in order:
        d = int(plans.drawn[slot])
        step, kind = plans.steps[slot][d], int(plans.kind[slot, d])
        scale = float(guidance[slot, kind]) if since[slot] <= step < until[slot] else 1.0
        rows.append((step, int(seed[slot]), scale, *(s[slot, kind].item() for s in sampling)))
    for backend in backends_here(plan_draw):
        with use_backend(backend):
            outputs = plan_draw(*plans.tables, *on_device(order), *plans.settings)
        assert [*zip(*(out.tolist() for out in outputs), strict=True)] == rows


@given(data=st.data(), slots=st.integers(1, 6))
def test_writing_down(data, slots):
    plans = Plans(slots, seed=data.draw(st.integers(0, 99)))
    order = data.draw(st.permutations(range(slots)))[: data.draw(st.integers(0, slots))] + [slots] * 2
    ids = list(range(-1, len(order) - 1))
    expected = [t.clone() for t in (plans.answers, plans.drawn)]
    for slot, drawn in zip(order[:-2], ids, strict=False):
        expected[0][slot, plans.steps[slot][int(plans.drawn[slot])]] = drawn
        expected[1][slot] += 1
    for backend in backends_here(plan_record):
        answers, steps, drawn = (t.clone() for t in plans.tables)
        latest = plans.latest.to(DEVICE)
        with use_backend(backend):
            plan_record(answers, steps, drawn, *on_device(order, ids), latest)
        assert torch.equal(answers.cpu(), expected[0])
        assert torch.equal(drawn.cpu(), expected[1])
        assert all(latest[slot] == value for slot, value in zip(order[:-2], ids, strict=False))


def test_what_cannot_go_on_is_refused_on_the_cpu():
    plans = Plans(3)
    fresh, over = plans.drawn.clone(), plans.drawn.clone()
    fresh[1], over[1] = 0, plans.draw_step.shape[1]
    one = on_device([1], [0])
    with pytest.raises(RuntimeError, match="stream 0 has no draw left, made none yet"), use_backend("cpu"):
        plan_feed(plans.answers, plans.draw_step, fresh, *one, 9, 4, 8)
    two = on_device([0] * 9, [0] * 9)
    tokens = len(fed_plainly(plans, [0] * 9, [0] * 9, 9, 4, 0)[0][0])
    with pytest.raises(RuntimeError, match=r"stream 8 .* do not fit"), use_backend("cpu"):
        plan_feed(*plans.tables, *two, 9, 4, tokens - 1)
    with pytest.raises(RuntimeError, match="row 0 has no draw left"), use_backend("cpu"):
        plan_draw(plans.answers, plans.draw_step, over, one[0], *plans.settings)
    with pytest.raises(RuntimeError, match="row 0 has no draw left"), use_backend("cpu"):
        plan_record(plans.answers, plans.draw_step, over, *one, plans.latest)
    with pytest.raises(RuntimeError, match="1 tokens for 2 streams"):
        plan_feed(*plans.tables, *on_device([0, 0], [0, 0]), 9, 4, 1)
    with pytest.raises(RuntimeError, match="contiguous int64"):
        plan_feed(plans.answers.int(), plans.draw_step, plans.drawn, *one, 9, 4, 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    plans = Plans(3)
    feed = (*plans.tables, *on_device([0, 2], [0, 5]), 9, 4, 24)
    draw = (*plans.tables, *on_device([2, 0, 3]), *plans.settings)
    record = (*plans.tables, *on_device([2, 0], [5, 6]), plans.latest.to(DEVICE))
    for op, args in ((plan_feed, feed), (plan_draw, draw), (plan_record, record)):
        skip_unless_runs(op, backend, *args)
        with use_backend(backend):
            torch.library.opcheck(op.overload, args)
