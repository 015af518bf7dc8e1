"""What the tests of both ways to draw share: filters, what the oracle draws, and rows in changing company."""

import pytest
import torch
from sampling_oracle import mixed, survivors
from support import DEVICE

from illume_fast.bench.inputs import logits

FILTERS = [
    pytest.param({}, id="none"),
    pytest.param({"top_k": 50}, id="top-k"),
    pytest.param({"top_p": 0.8}, id="top-p"),
    pytest.param({"min_p": 0.05}, id="min-p"),
    pytest.param({"top_k": 300, "top_p": 0.7, "min_p": 0.01, "temperature": 1.7}, id="all"),
    pytest.param({"temperature": 0.0, "top_k": 3}, id="greedy"),
]
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def drawn_by(rule, cond, uncond, guidance, seed, step, **settings):
    """The ids that `rule` (`drawn` or `raced` of the oracle) draws, a row at a time in float64."""
    out = []
    for c, u in zip(cond.double().cpu().numpy(), uncond.double().cpu().numpy(), strict=True):
        _, p = survivors(mixed(c, u, guidance), **{**DEFAULTS, **settings})
        out.append(rule(p, seed, step))
    return out


def assert_rows_do_not_see_each_other(draw):
    """`draw(cond, uncond, **settings)` gives each row the same id alone, among others and in another order."""
    rows = 9
    cond, uncond = (t.to(DEVICE) for t in logits(rows, 777))
    per_row = {
        "guidance": torch.linspace(0, 4, rows),
        "temperature": torch.tensor([0.0, 0.5, 1.0] * 3),
        "top_k": torch.arange(rows) * 40,
        "top_p": torch.linspace(0.2, 1, rows),
        "min_p": torch.linspace(0, 0.1, rows),
        "seed": torch.arange(rows) * 1234567891011,
        "step": torch.arange(rows) * 7,
    }
    per_row = {k: v.to(DEVICE) for k, v in per_row.items()}
    together = draw(cond, uncond, **per_row)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    shuffled = draw(cond[order], uncond[order], **{k: v[order] for k, v in per_row.items()})
    assert torch.equal(shuffled, together[order])
    for row in range(rows):
        one = slice(row, row + 1)
        alone = draw(cond[one], uncond[one], **{k: v[row].item() for k, v in per_row.items()})
        assert alone.item() == together[row]
