import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.ops import cfg_head_sample, cfg_sample, use_backend
from illume_fast.ops.cfg_head_sample import cfg_head_sample_op

BACKENDS = backend_names(cfg_head_sample_op)
NUMBERS = (2.0, 1.0, 5, 0.9, 0.0, 1, 2)


def inputs(rows=6, hidden=48, vocabulary=500, dtype=torch.float32):
    gen = torch.Generator().manual_seed(rows)
    shapes = ((rows, hidden), (rows, hidden), (vocabulary, hidden))
    return [torch.randn(shape, generator=gen).to(DEVICE, dtype) for shape in shapes]


def on(backend, *args, **settings):
    skip_unless_runs(cfg_head_sample_op, backend, *args[:3], 0, 1, *NUMBERS, *([None] * 7))
    with use_backend(backend):
        return cfg_head_sample(*args, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_head_of_both_branches(backend, dtype):
    cond, uncond, weight = inputs(dtype=dtype)
    settings = {"guidance": 3.0, "seed": torch.arange(6, device=DEVICE), "step": 4, "top_k": 30, "top_p": 0.9}
    ids = on(backend, cond, uncond, weight, (100, 300), **settings)
    mix = (uncond.float() + 3.0 * (cond.float() - uncond.float())).to(dtype)
    exact = F.linear(mix, weight[100:300])
    assert torch.equal(ids, cfg_sample(exact, None, **{**settings, "guidance": 1.0}) + 100)
    if dtype == torch.float32:  # in exact arithmetic mixing commutes with the head
        logits = [F.linear(h.double(), weight[100:300].double()).float() for h in (cond, uncond)]
        assert torch.equal(ids, cfg_sample(*logits, **settings) + 100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_branch_is_enough_where_guidance_is_one_or_zero(backend):
    cond, uncond, weight = inputs()
    same = {"seed": 1, "step": 2, "top_k": 20}
    alone = [on(backend, h, None, weight, (0, 500), guidance=1.0, **same) for h in (cond, uncond)]
    broken = torch.full_like(cond, float("nan"))
    assert torch.equal(on(backend, cond, broken, weight, (0, 500), guidance=1.0, **same), alone[0])
    assert torch.equal(on(backend, broken, uncond, weight, (0, 500), guidance=0.0, **same), alone[1])
    mix = torch.tensor([1.0, 0.0] * 3, device=DEVICE)
    assert torch.equal(on(backend, cond, uncond, weight, (0, 500), guidance=mix, **same), torch.where(mix == 1, *alone))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bias_is_added_once_however_the_branches_are_mixed(backend):
    cond, uncond, weight = inputs()
    bias = 3 * torch.randn(500, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    settings = {"guidance": 3.0, "seed": torch.arange(6, device=DEVICE), "step": 4, "top_k": 30}
    ids = on(backend, cond, uncond, weight, (100, 300), bias=bias, **settings)
    both = [F.linear(h.double(), weight[100:300].double(), bias[100:300].double()).float() for h in (cond, uncond)]
    assert torch.equal(ids, cfg_sample(*both, **settings) + 100)
    with pytest.raises(RuntimeError, match=r"bias must be \[500\]"):
        on(backend, cond, uncond, weight, (100, 300), bias=bias[:5], **settings)


@given(bounds=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6))
def test_a_range_per_row(bounds):
    ranges = [(lo, lo + width) for lo, width in bounds]
    cond, uncond, weight = inputs(len(ranges), 16, 60)
    rows = torch.tensor(ranges)
    seeds = torch.arange(len(ranges), device=DEVICE)
    for backend in backends_here(cfg_head_sample_op):
        ids = on(backend, cond, uncond, weight, rows, guidance=2.0, seed=seeds, step=0)
        for i, (lo, hi) in enumerate(ranges):
            assert lo <= ids[i] < hi
            alone = on(
                backend, cond[i : i + 1], uncond[i : i + 1], weight, (lo, hi), guidance=2.0, seed=int(seeds[i]), step=0
            )
            assert ids[i] == alone


@given(ends=st.sets(st.integers(0, 60), min_size=2, max_size=8), guided=st.booleans())
def test_several_ranges_leave_out_what_lies_between(ends, guided):
    ends = sorted(ends)[: len(ends) // 2 * 2]
    ranges = tuple(zip(ends[::2], ends[1::2], strict=True))
    cond, uncond, weight = inputs(7, 16, 60)
    settings = {"guidance": 2.5 if guided else 1.0, "seed": torch.arange(7, device=DEVICE), "step": 3, "top_p": 0.9}
    legal = torch.tensor([i for lo, hi in ranges for i in range(lo, hi)])
    for backend in backends_here(cfg_head_sample_op):
        ids = on(backend, cond, uncond if guided else None, weight, ranges, **settings)
        mix = (uncond.double() + 2.5 * (cond.double() - uncond.double())) if guided else cond.double()
        logits = torch.full((7, 60), -torch.inf)
        logits[:, legal] = F.linear(mix, weight.double()).float()[:, legal]
        assert torch.equal(ids, cfg_sample(logits, None, **{**settings, "guidance": 1.0}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_rows_and_empty_ranges(backend):
    cond, uncond, weight = inputs()
    cond[2, 0] = float("nan")
    ids = on(backend, cond, uncond, weight, (10, 20), guidance=2.0, seed=0, step=0)
    assert [i == -1 for i in ids.tolist()] == [False, False, True, False, False, False]
    assert on(backend, cond, uncond, weight, (10, 10), guidance=2.0, seed=0, step=0).tolist() == [-1] * 6
    assert on(backend, cond[:0], uncond[:0], weight, (10, 20), guidance=2.0, seed=0, step=0).tolist() == []


def test_bad_arguments_name_both_values():
    cond, uncond, weight = inputs()
    good = {"guidance": 2.0, "seed": 0, "step": 0}
    for args, message in (
        ((cond, uncond, weight, (10, 501)), r"rows \(10, 501\) do not lie in the 500 rows"),
        ((cond, uncond, weight, (20, 10)), r"rows \(20, 10\)"),
        ((cond, uncond[:2], weight, (0, 5)), r"shapes \(6, 48\) and \(2, 48\) differ"),
        ((cond, uncond, weight[:, :7], (0, 5)), r"\(6, 48\) and \(500, 7\)"),
        ((cond, uncond, weight, torch.zeros(5, 2, dtype=torch.int64)), r"must be integers \[6, 2\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            cfg_head_sample(*args, **good)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    args = (*inputs(), 10, 90, *NUMBERS, *([None] * 7))
    skip_unless_runs(cfg_head_sample_op, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(cfg_head_sample_op.overload, args)


def test_compiles_without_graph_breaks():
    def step(cond, uncond, weight):
        return cfg_head_sample(cond, uncond, weight, (10, 90), guidance=2.0, top_k=5, seed=1, step=3) + 1

    args = inputs()
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*args), step(*args))
