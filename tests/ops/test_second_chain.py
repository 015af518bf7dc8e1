"""The second chain of filters of `cfg_sample`, and `cfg_probabilities`, against an oracle that filters twice."""

import numpy as np
import pytest
import torch
from sampling_cases import DEFAULTS
from sampling_oracle import drawn, mixed, survivors
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.bench.inputs import logits
from illume_fast.ops import cfg_head_sample, cfg_probabilities, cfg_sample, use_backend
from illume_fast.ops.cfg_probabilities import cfg_weights_op
from illume_fast.ops.cfg_sample import cfg_sample_op

BACKENDS = backend_names(cfg_weights_op)
NAMES = ("temperature", "top_k", "top_p")
EDIT = {"temperature": 0.7, "top_p": 0.8}
CHAINS = [
    pytest.param({"top_k": 64}, {"top_k": 20}, id="k-then-less"),
    pytest.param({"top_k": 20}, {"top_k": 64}, id="k-then-more"),
    pytest.param(EDIT | {"top_k": 48}, EDIT | {"top_k": 16}, id="edit"),
    pytest.param({"top_p": 0.6}, {"temperature": 3.0, "top_p": 0.7}, id="p-then-p"),
    pytest.param({"min_p": 0.001}, {"temperature": 0.5}, id="warmer-then-min-p"),
    pytest.param({"temperature": 0.0, "top_k": 3}, {"temperature": 0.5, "top_k": 2}, id="greedy"),
    pytest.param({"top_k": 300, "top_p": 0.9}, {}, id="off"),
]  # fmt: skip


def then(second):
    return {f"then_{name}": value for name, value in second.items()}


def twice(z, first, second):
    """Probabilities, float64, by filtering, and filtering again what is left; min-p comes last."""
    first, second = {**DEFAULTS, **first}, {**DEFAULTS, **second}
    if first["temperature"] == 0:
        return survivors(z, **first)[1]
    alive, _ = survivors(z, **{**first, "min_p": 0.0})
    heat = first["temperature"] * second["temperature"]
    return survivors(np.where(alive, z, -np.inf), heat, second["top_k"], second["top_p"], first["min_p"])[1]


def probabilities(backend, *branches, **settings):
    skip_unless_runs(cfg_weights_op, backend, *branches)
    with use_backend(backend):
        return cfg_probabilities(*branches, **settings)


@pytest.mark.parametrize(("first", "second"), CHAINS)
@pytest.mark.parametrize("size", [1, 40, 1000, 20000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_probabilities_are_those_of_the_rule(backend, dtype, size, first, second):
    cond, uncond = (t.to(DEVICE) for t in logits(3, size, dtype))
    p = probabilities(backend, cond, uncond, guidance=3.0, **first, **then(second)).cpu()
    assert p.dtype == torch.float64
    for row, (c, u) in enumerate(zip(cond.double().cpu().numpy(), uncond.double().cpu().numpy(), strict=True)):
        expected = torch.from_numpy(twice(mixed(c, u, 3.0), first, second))
        assert torch.equal(p[row] > 0, expected > 1e-12)
        torch.testing.assert_close(p[row], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("first", "second"), CHAINS)
def test_draws_have_these_probabilities(first, second):
    """The id that is drawn is the one that the oracle finds among the op's own probabilities; and in any company."""
    cond, uncond = (t.to(DEVICE) for t in logits(5, 700))
    settings = {**first, **then(second), "guidance": 2.0}
    seeds = torch.arange(5, device=DEVICE)
    # rows without a second chain between those that have one
    some = torch.tensor([True, False, True, False, False], device=DEVICE)
    rows = {f"then_{n}": torch.where(some, float(second.get(n, DEFAULTS[n])), float(DEFAULTS[n])) for n in NAMES}
    rows["then_top_k"] = rows["then_top_k"].long()
    for backend in (b for b in backends_here(cfg_sample_op) if b != "triton"):
        with use_backend(backend):
            ids = cfg_sample(cond, uncond, **settings, seed=seeds, step=7)
            plain = cfg_sample(cond, uncond, **first, guidance=2.0, seed=seeds, step=7)
            between = cfg_sample(cond, uncond, **{**settings, **rows}, seed=seeds, step=7)
            p = cfg_probabilities(cond, uncond, **settings)
        assert torch.equal(between, torch.where(some, ids, plain)), backend
        assert ids.tolist() == [drawn(row.cpu().numpy(), seed, 7) for seed, row in enumerate(p)], backend


def test_from_hidden_states():
    hidden, other = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    weight = torch.randn(300, 32, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    settings = {"temperature": 0.8, "top_k": 90, "then_temperature": 1.5, "then_top_k": 40, "then_top_p": 0.9}
    mix = (other + 2.0 * (hidden - other)) @ weight[20:280].T
    seeds = torch.arange(4, device=DEVICE)
    expected = cfg_sample(mix, None, guidance=1.0, **settings, seed=seeds, step=3) + 20
    for backend in backends_here(cfg_sample_op):
        with use_backend(backend):
            ids = cfg_head_sample(hidden, other, weight, (20, 280), guidance=2.0, **settings, seed=seeds, step=3)
        assert torch.equal(ids, expected), backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_a_draw_are_nan(backend):
    cond, _ = logits(4, 90)
    cond[1], cond[2, 5] = -torch.inf, torch.nan
    heat = torch.tensor([1.0, 1.0, 1.0, 0.0])
    p = probabilities(backend, cond.to(DEVICE), None, guidance=1.0, then_temperature=heat.to(DEVICE))
    assert p.isnan().all(1).tolist() == [False, True, True, True]
    assert not p[0].isnan().any()
    for shape in ((0, 5), (3, 0)):
        assert probabilities(backend, torch.zeros(shape, device=DEVICE), None, guidance=1.0).shape == shape


def test_what_is_out_of_range_is_refused():
    cond, _ = logits(2, 8)
    for name, bad, message in (
        ("then_temperature", 0.0, "then_temperature must be finite and positive, got 0"),
        ("then_top_k", -1, "then_top_k must be 0"),
        ("then_top_p", 1.5, r"then_top_p must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            cfg_sample(cond, None, guidance=1.0, seed=0, step=0, **{name: bad})
        with pytest.raises(ValueError, match=message):
            cfg_probabilities(cond, None, guidance=1.0, **{name: bad})
        rows = torch.tensor([bad, 1.0 if name != "then_top_k" else 1])
        assert cfg_sample(cond, None, guidance=1.0, seed=0, step=0, **{name: rows}).tolist()[0] == -1
    with pytest.raises(RuntimeError, match=r"then_top_k has shape \(3,\), it must be \[2\]"):
        cfg_probabilities(cond, None, guidance=1.0, then_top_k=torch.ones(3, dtype=torch.int64))


def test_triton_says_that_it_has_none():
    cond, _ = logits(2, 8)
    with use_backend("triton"), pytest.raises(RuntimeError, match="a second chain has no Triton kernel"):
        cfg_sample(cond, None, guidance=1.0, seed=0, step=0, then_top_k=3)


def test_registration_is_complete():
    cond, uncond = (t.to(DEVICE) for t in logits(3, 40))
    args = (cond, uncond, 2.0, 1.0, 5, 0.9, 0.0, 1.0, 3, 1.0, torch.ones(3, device=DEVICE), *[None] * 7)
    torch.library.opcheck(cfg_weights_op.overload, args)
    rows = [None] * 7, "inverse", 2.0, 3, 0.9, None, torch.ones(3, dtype=torch.int64, device=DEVICE), None
    torch.library.opcheck(cfg_sample_op.overload, (cond, uncond, 2.0, 1.0, 5, 0.9, 0.0, 1, 2, *rows[0], *rows[1:]))
    compiled = torch.compile(lambda c, u: cfg_probabilities(c, u, guidance=2.0), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(cond, uncond), cfg_probabilities(cond, uncond, guidance=2.0))
