"""The exponential race of `cfg_sample` and `cfg_head_sample`: exact, the same in any company, and nearly always the
same draw where logits are nearly the same."""

from functools import partial

import numpy as np
import pytest
import torch
from sampling_cases import FILTERS, assert_rows_do_not_see_each_other, drawn_by
from sampling_oracle import philox, raced, survivors
from support import DEVICE, backend_names, skip_unless_runs

from illume_fast.bench.inputs import logits
from illume_fast.ops import cfg_head_sample, cfg_sample, use_backend
from illume_fast.ops.cfg_sample import cfg_sample_op
from illume_fast.ops.philox import philox as philox_of

BACKENDS = backend_names(cfg_sample_op)


def on(backend, cond, uncond, **settings):
    skip_unless_runs(cfg_sample_op, backend, cond, uncond, 1.0, 1.0, 0, 1.0, 0.0, 0, 0, *([None] * 7), "race")
    with use_backend(backend):
        return cfg_sample(cond, uncond, noise="race", **settings)


def expected(*args, **settings):
    return drawn_by(raced, *args, **settings)


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize("size", [1, 7, 64, 4500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_what_a_race_in_double_draws(backend, dtype, size, settings):
    cond, uncond = (t.to(DEVICE) for t in logits(3, size, dtype))
    ids = on(backend, cond, uncond, guidance=3.0, seed=2**63 + 11, step=2**40 + 5, **settings)
    assert ids.tolist() == expected(cond, uncond, 3.0, 2**63 + 11, 2**40 + 5, **settings)


@pytest.mark.parametrize("settings", FILTERS)
def test_every_instruction_set(isa, settings):
    for size in (1, 15, 16, 33, 4099):
        cond, uncond = logits(4, size, seed=size)
        with use_backend("cpu"):
            ids = cfg_sample(cond, uncond, guidance=2.5, seed=3, step=9, noise="race", **settings)
        assert ids.tolist() == expected(cond, uncond, 2.5, 3, 9, **settings), (isa, size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distribution(backend):
    """Chi-square over 20 000 draws, one row per seed; the 99.99 % point for 9 degrees of freedom is 33.7."""
    z, draws = torch.linspace(-1, 2, 12), 20000
    seeds = torch.arange(draws, device=DEVICE)
    rows = z.expand(draws, 12).to(DEVICE)
    _, p = survivors(z.numpy(), 0.8, 10, 1.0, 0.0)
    for step in (0, 1):
        ids = on(backend, rows, None, guidance=1.0, temperature=0.8, top_k=10, seed=seeds, step=step)
        seen = np.bincount(ids.cpu().numpy(), minlength=12)
        assert seen[p == 0].sum() == 0
        wanted = p[p > 0] * draws
        assert ((seen[p > 0] - wanted) ** 2 / wanted).sum() < 33.7


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_seeds_are_independent(backend):
    """Chi-square of pairs of draws, of one seed at two steps and of two seeds at one; 99.99 % at 15 degrees: 44.3."""
    rows, draws = torch.zeros(8000, 4, device=DEVICE), 8000
    seeds = torch.arange(draws, device=DEVICE)
    first = on(backend, rows, None, guidance=1.0, seed=seeds, step=7)
    for second in (
        on(backend, rows, None, guidance=1.0, seed=seeds, step=8),
        on(backend, rows, None, guidance=1.0, seed=seeds + 1, step=7),
    ):
        seen = np.bincount((4 * first + second).cpu().numpy(), minlength=16)
        assert ((seen - draws / 16) ** 2 / (draws / 16)).sum() < 44.3


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_do_not_see_each_other(backend):
    assert_rows_do_not_see_each_other(partial(on, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_rows_answer_minus_one(backend):
    cond, uncond = (t.to(DEVICE) for t in logits(5, 300))
    cond[1, 299], cond[2, 0], cond[3], cond[4, 1:] = float("nan"), float("inf"), -float("inf"), -float("inf")
    ids = on(backend, cond, uncond, guidance=2.0, seed=3, step=0, top_k=3)
    assert [i == -1 for i in ids.tolist()] == [False, True, True, True, False]
    assert ids[4] == 0
    assert on(backend, cond[:, :0], uncond[:, :0], guidance=2.0, seed=0, step=0).tolist() == [-1] * 5


@pytest.mark.parametrize("rule", ["race", "inverse"])
def test_nearly_equal_rows_agree_in_a_race(rule):
    """Total variation 0.04 apart: a race parts them in at most 8 % of draws, the inverse in most."""
    z = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    other = z + 0.1 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(1))
    apart = 0.5 * (z.softmax(1) - other.softmax(1)).abs().sum()
    seeds = torch.arange(2000)
    first, second = (
        cfg_sample(x.expand(2000, -1), None, guidance=1.0, seed=seeds, step=0, noise=rule) for x in (z, other)
    )
    parted = (first != second).float().mean()
    if rule == "race":
        assert parted < 2 * apart + 0.01
    else:
        assert parted > 0.5


def test_the_head_races_within_its_range():
    gen = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 48, generator=gen), torch.randn(500, 48, generator=gen)
    same = {"guidance": 1.0, "seed": torch.arange(6), "step": 4, "top_k": 30, "noise": "race"}
    expected = cfg_sample(hidden @ weight[100:300].T, None, **same) + 100
    assert torch.equal(cfg_head_sample(hidden, None, weight, (100, 300), **same), expected)
    per_row = torch.tensor([[100, 300]] * 6)
    assert torch.equal(cfg_head_sample(hidden, None, weight, per_row, **same), expected)
    parts = cfg_head_sample(hidden, None, weight, [(100, 150), (200, 300)], **same)
    masked = (hidden @ weight[100:300].T).index_fill(1, torch.arange(50, 100), -torch.inf)
    assert torch.equal(parts, cfg_sample(masked, None, **same) + 100)


def test_an_unknown_noise_is_refused():
    rows = torch.zeros(2, 5)
    with pytest.raises(RuntimeError, match="noise is 'gumbel', it must be one of inverse, race"):
        cfg_sample(rows, None, guidance=1.0, seed=0, step=0, noise="gumbel")
    with pytest.raises(RuntimeError, match="cfg_head_sample: noise is 'x'"):
        cfg_head_sample(rows, None, rows, (0, 2), guidance=1.0, seed=0, step=0, noise="x")


def test_philox_takes_four_words_of_counter():
    """The third of the test vectors of Random123."""
    key, counter = 0x299F31D0A4093822, 0x85A308D3243F6A88
    words = philox_of(
        *(torch.tensor([x - (1 << 64) if x >> 63 else x]) for x in (key, counter)),
        torch.tensor([0x13198A2E]),
        0x03707344,
    )
    assert [int(w) for w in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert philox(key, counter, 0x13198A2E, 0x03707344) == 0x94FDCCEB << 32 | 0xD16CFE09


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    cond, uncond = (t.to(DEVICE) for t in logits(3, 40))
    args = (cond, uncond, 2.0, 1.0, 5, 0.9, 0.0, 1, 2, *([None] * 7), "race")
    skip_unless_runs(cfg_sample_op, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(cfg_sample_op.overload, args)


def test_compiles_without_graph_breaks():
    def step(cond, uncond):
        return cfg_sample(cond, uncond, guidance=2.0, top_k=5, seed=1, step=3, noise="race") + 1

    args = logits(4, 50)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*args), step(*args))
