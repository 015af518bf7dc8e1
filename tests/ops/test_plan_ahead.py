"""The ops of steps that guess ahead, against a walk through the plans in plain Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import plan_draw, plan_feed, use_backend
from illume_fast.ops.plan_ahead import NOT_TAKEN, plan_accept, plan_feed_ahead, plan_note

BACKENDS = backend_names(plan_feed_ahead)


class Plans:
    """Random plans with drafts, how far each slot got, and how far each looks; the last slot fills batches up."""

    def __init__(self, slots, width, seed=0):
        gen = torch.Generator().manual_seed(seed)

        def some(low, high, *size):
            return torch.randint(low, high, size, generator=gen)

        self.width = width
        self.steps = [sorted(torch.randperm(14, generator=gen)[: int(some(2, 12))].tolist()) for _ in range(slots)]
        self.steps.append([0, 1])
        draws = max(map(len, self.steps)) + int(some(0, 2))
        at = [*(int(some(1, len(s))) for s in self.steps[:-1]), 1]
        sizes = [int(some(1, min(width, len(s) - d) + 1)) for s, d in zip(self.steps, at, strict=True)]
        sizes[-1] = 1
        self.drawn, self.window = torch.tensor(at), torch.tensor(sizes)
        self.draw_step = torch.tensor([s + [0] * (draws - len(s)) for s in self.steps])
        # few ids, so that drafts are often right
        self.answers, self.made = some(-1, 3, slots + 1, 14), some(-1, 3, slots + 1, width)

    @property
    def tables(self):
        return [t.clone().to(DEVICE) for t in (self.answers, self.draw_step, self.drawn)]


def on_device(*values):
    return [torch.tensor(v, dtype=torch.int64, device=DEVICE) for v in values]


def fed_plainly(plans, slot_of, start, filler, page_size, tokens):
    fed, last = [], []
    for s, slot in enumerate(slot_of):
        steps, d, size = plans.steps[slot], int(plans.drawn[slot]), int(plans.window[slot])
        first = len(fed) - steps[d - 1]
        fed += [
            (max(int(plans.answers[slot, step]), 0), start[s] + step, s)
            for step in range(steps[d - 1], steps[d + size - 1])
        ]
        last.append([first + steps[d + min(j, size - 1)] - 1 for j in range(plans.width)])
    fed += [(0, i % page_size, filler) for i in range(tokens - len(fed))]
    return [*zip(*fed, strict=True)], last


@given(data=st.data(), slots=st.integers(1, 5), width=st.integers(1, 5), room=st.integers(0, 9))
def test_feeding(data, slots, width, room):
    plans = Plans(slots, width, seed=data.draw(st.integers(0, 999)))
    slot_of = data.draw(st.lists(st.integers(0, slots), min_size=1, max_size=8))
    start = [7 * s for s in range(len(slot_of))]
    whole, last = fed_plainly(plans, slot_of, start, 99, 4, 0)
    tokens = len(whole[0]) + room
    expected, _ = fed_plainly(plans, slot_of, start, 99, 4, tokens)
    for backend in backends_here(plan_feed_ahead):
        with use_backend(backend):
            *outputs, ends = plan_feed_ahead(
                *plans.tables, *on_device(slot_of, start), plans.window.to(DEVICE), width, 99, 4, tokens
            )
            if width == 1:
                *plain, plain_ends = plan_feed(*plans.tables, *on_device(slot_of, start), 99, 4, tokens)
                assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))
                assert torch.equal(ends[:, 0], plain_ends)
        assert [tuple(out.tolist()) for out in outputs] == expected
        assert ends.tolist() == last


def accepted_plainly(plans, slot):
    """(ids taken, the slot's answer afterwards)."""
    steps, d, size = plans.steps[slot], int(plans.drawn[slot]), int(plans.window[slot])
    made, answer = plans.made[slot].tolist(), plans.answers[slot].tolist()
    drafts = [answer[steps[d + j]] for j in range(size)]
    taken = 1
    while taken < size and made[taken - 1] == drafts[taken - 1] != -1:
        taken += 1
    for j in range(size):
        answer[steps[d + j]] = made[j]
    for step in steps[d + size : d + size + taken]:
        answer[step] = made[size - 1]
    return made[:taken], answer


def assert_accepted(plans, order, answers, drawn, made):
    for slot in range(len(plans.steps)):
        if slot not in order or slot == len(plans.steps) - 1:
            assert answers[slot].tolist() == plans.answers[slot].tolist()
            assert int(drawn[slot]) == int(plans.drawn[slot])
            assert made[slot].tolist() == plans.made[slot].tolist()
            continue
        taken, answer = accepted_plainly(plans, slot)
        assert made[slot].tolist() == taken + [NOT_TAKEN] * (plans.width - len(taken))
        assert answers[slot].tolist() == answer
        assert int(drawn[slot]) == int(plans.drawn[slot]) + len(taken)


@given(data=st.data(), slots=st.integers(1, 5), width=st.integers(1, 5))
def test_accepting(data, slots, width):
    plans = Plans(slots, width, seed=data.draw(st.integers(0, 999)))
    order = data.draw(st.permutations(range(slots)))[: data.draw(st.integers(0, slots))] + [slots] * 2
    for backend in backends_here(plan_accept):
        answers, steps, drawn = plans.tables
        made = plans.made.clone().to(DEVICE)
        with use_backend(backend):
            plan_accept(answers, steps, drawn, *on_device(order), plans.window.to(DEVICE), made)
        assert_accepted(plans, order, answers, drawn, made)


@pytest.mark.parametrize("backend", BACKENDS)
def test_noting(backend):
    made = torch.zeros(4, 3, dtype=torch.int64, device=DEVICE)
    where = on_device([2, 0, 2], [1, 0, 2], [5, 6, -1])
    skip_unless_runs(plan_note, backend, made, *where)
    with use_backend(backend):
        plan_note(made, *where)
    assert made.tolist() == [[6, 0, 0], [0, 0, 0], [0, 5, -1], [0, 0, 0]]


@pytest.mark.parametrize("backend", backend_names(plan_draw))
def test_parameters_of_draws_further_on(backend):
    plans = Plans(2, 3, seed=3)
    steps = plans.draw_step.to(DEVICE)
    wide = [torch.arange(3, device=DEVICE)] * 3
    sampling = [torch.rand(3, 1, device=DEVICE), wide[0][:, None].contiguous(), *torch.rand(2, 3, 1, device=DEVICE)]
    args = (plans.answers.to(DEVICE), steps, plans.drawn.to(DEVICE), *on_device([1, 1, 0]), steps * 0, *sampling)
    args = (*args, torch.rand(3, 1, device=DEVICE), *wide, *on_device([0, 1, 0]))
    skip_unless_runs(plan_draw, backend, *args)
    with use_backend(backend):
        step, seed, *_ = plan_draw(*args)
    d = plans.drawn.tolist()
    assert step.tolist() == [plans.draw_step[1, d[1]], plans.draw_step[1, d[1] + 1], plans.draw_step[0, d[0]]]
    assert seed.tolist() == [1, 1, 0]


def test_what_cannot_go_on_is_refused_on_the_cpu():
    plans = Plans(3, 4)
    too_far = plans.window.clone()
    too_far[1] = 5
    feed = (*plans.tables, *on_device([1], [0]))
    with pytest.raises(RuntimeError, match="stream 0 has no such draws left"), use_backend("cpu"):
        plan_feed_ahead(*feed, too_far, 4, 9, 4, 99)
    with pytest.raises(RuntimeError, match="row 0 has no such draws left"), use_backend("cpu"):
        plan_accept(*plans.tables, *on_device([1]), too_far, plans.made)
    with pytest.raises(RuntimeError, match="row 1 has no such draws"), use_backend("cpu"):
        plan_note(plans.made, *on_device([0, 0], [0, 4], [1, 1]))
    with pytest.raises(RuntimeError, match="1 tokens for 2 streams"):
        plan_feed_ahead(*plans.tables, *on_device([0, 0], [0, 0]), plans.window, 4, 9, 4, 1)
    with pytest.raises(RuntimeError, match="2 windows of at most 4 for 4 slots"):
        plan_feed_ahead(*plans.tables, *on_device([0], [0]), plans.window[:2], 4, 9, 4, 9)
    with pytest.raises(RuntimeError, match=r"made is torch\.int32"):
        plan_accept(*plans.tables, *on_device([1]), plans.window, plans.made.int())


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    plans = Plans(3, 3)
    window, made = plans.window.to(DEVICE), plans.made.to(DEVICE)
    feed = (*plans.tables, *on_device([0, 2], [0, 5]), window, 3, 9, 4, 40)
    note = (made, *on_device([2, 0], [0, 1], [5, 6]))
    accept = (*plans.tables, *on_device([2, 0, 3]), window, made)
    for op, args in ((plan_feed_ahead, feed), (plan_note, note), (plan_accept, accept)):
        skip_unless_runs(op, backend, *args)
        with use_backend(backend):
            torch.library.opcheck(op.overload, args)
