"""Random calls of the ops that take rows from tables and follow plans."""

import torch
from random_inputs import Random
from support import DEVICE
from test_plan_ahead import Plans as PlansAhead
from test_plan_ahead import assert_accepted
from test_plan_ahead import fed_plainly as fed_ahead_plainly
from test_plan_steps import Plans, fed_plainly, on_device

from illume_fast.ops import gather_rows, plan_accept, plan_draw, plan_feed, plan_feed_ahead, plan_note, plan_record


def check_gather_rows(r: Random) -> None:
    rows, width = r.size(40), r.size(huge=5000)
    table = r.laid_out(r.values(rows, width, dtype=r.choice((torch.float32, torch.bfloat16, torch.float16))))
    index = r.integers(-2, rows, r.size(70)).to(DEVICE) if rows else torch.zeros(0, dtype=torch.int64, device=DEVICE)
    actual = gather_rows(table, index)
    assert actual.shape == (len(index), width)
    for row, i in zip(actual, index.tolist(), strict=True):
        expected = table[i] if i >= 0 else torch.zeros_like(row)
        assert torch.equal(row.nan_to_num(1.0), expected.nan_to_num(1.0))


def some_plans(r: Random) -> tuple[Plans, int]:
    slots = r.number(1, 20)
    return Plans(slots, seed=r.number(0, 2**30)), slots


def check_plan_feed(r: Random) -> None:
    plans, slots = some_plans(r)
    slot_of = r.integers(0, slots + 1, r.number(1, 40)).tolist()
    start = r.integers(0, 5000, len(slot_of)).tolist()
    tokens = len(fed_plainly(plans, slot_of, start, 9, 4, 0)[0][0]) + r.number(0, 9)
    *outputs, last = plan_feed(*plans.tables, *on_device(slot_of, start), 77, 16, tokens)
    expected, ends = fed_plainly(plans, slot_of, start, 77, 16, tokens)
    assert [tuple(out.tolist()) for out in outputs] == expected
    assert last.tolist() == ends


def check_plan_draw(r: Random) -> None:
    plans, slots = some_plans(r)
    order = r.integers(0, slots + 1, r.number(0, 40))
    step, seed, guidance, *others = plan_draw(*plans.tables, order.to(DEVICE), *plans.settings)
    at = plans.drawn[order]
    kind = plans.kind[order, at]
    since, until, seeds = (t[order] for t in plans.of_slot)
    *sampling, scale = (t[order, kind] for t in plans.sampling)
    assert torch.equal(step.cpu(), plans.draw_step[order, at])
    assert torch.equal(seed.cpu(), seeds)
    guided = (since <= step.cpu()) & (step.cpu() < until)
    assert torch.equal(guidance.cpu(), torch.where(guided, scale, 1.0))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(others, sampling, strict=True))


def check_plan_record(r: Random) -> None:
    plans, slots = some_plans(r)
    order = torch.randperm(slots, generator=r.gen)[: r.number(0, slots + 1)]
    order = torch.cat([order, torch.full((r.number(0, 4),), slots)])
    ids = r.integers(-1, 300_000, len(order))
    answers, steps, drawn = (t.clone() for t in plans.tables)
    latest = plans.latest.to(DEVICE)
    plan_record(answers, steps, drawn, order.to(DEVICE), ids.to(DEVICE), latest)
    own = order[order < slots]
    plans.answers[own, plans.draw_step[own, plans.drawn[own]]] = ids[: len(own)]
    plans.drawn[own] += 1
    assert torch.equal(answers.cpu(), plans.answers)
    assert torch.equal(drawn.cpu(), plans.drawn)
    assert torch.equal(latest.cpu()[own], ids[: len(own)])


def some_plans_ahead(r: Random) -> PlansAhead:
    return PlansAhead(r.number(1, 20), r.number(1, 9), seed=r.number(0, 2**30))


def check_plan_feed_ahead(r: Random) -> None:
    plans = some_plans_ahead(r)
    slot_of = r.integers(0, len(plans.steps), r.number(1, 40)).tolist()
    start = r.integers(0, 5000, len(slot_of)).tolist()
    tokens = len(fed_ahead_plainly(plans, slot_of, start, 9, 4, 0)[0][0]) + r.number(0, 9)
    lists = on_device(slot_of, start)
    *outputs, last = plan_feed_ahead(*plans.tables, *lists, plans.window.to(DEVICE), plans.width, 77, 16, tokens)
    expected, ends = fed_ahead_plainly(plans, slot_of, start, 77, 16, tokens)
    assert [tuple(out.tolist()) for out in outputs] == expected
    assert last.tolist() == ends


def check_plan_note(r: Random) -> None:
    slots, width = r.number(1, 20), r.number(1, 9)
    made = r.integers(0, 9, slots * width).view(slots, width)
    places = torch.randperm(slots * width, generator=r.gen)[: r.number(0, slots * width + 1)]
    ids = r.integers(-1, 300_000, len(places))
    actual = made.clone().to(DEVICE)
    plan_note(actual, *(t.contiguous().to(DEVICE) for t in (places // width, places % width, ids)))
    made.view(-1)[places] = ids
    assert torch.equal(actual.cpu(), made)


def check_plan_accept(r: Random) -> None:
    plans = some_plans_ahead(r)
    slots = len(plans.steps) - 1
    order = [*torch.randperm(slots, generator=r.gen)[: r.number(0, slots + 1)].tolist(), *[slots] * r.number(0, 4)]
    answers, steps, drawn = plans.tables
    made = plans.made.clone().to(DEVICE)
    plan_accept(answers, steps, drawn, *on_device(order), plans.window.to(DEVICE), made)
    assert_accepted(plans, order, answers, drawn, made)
