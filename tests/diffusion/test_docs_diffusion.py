"""What docs/diffusion.md says of sizes, settings and savings."""

import re

import pytest
from support import ROOT

from illume_fast.bench.folding import count
from illume_fast.data.sizes import format_sizes
from illume_fast.diffusion import DiffusionSettings
from illume_fast.diffusion.sdxl import SIZES

PAGE = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")


def test_sizes():
    said = re.search(r"height x width: (.*?)\.", PAGE, flags=re.DOTALL).group(1)
    assert set(re.split(r",\s+|\s+and\s+", said)) == set(format_sizes(SIZES).split(", "))


def test_defaults():
    settings = DiffusionSettings()
    assert f"`steps` ({settings.steps}), `guidance` ({settings.guidance};" in PAGE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_savings():
    for output in (512, 1024):
        found = count(output // 8)
        whole, folded = found["whole_operations"], found["folded_operations"]
        row = (
            f"output {output} x {output} | {whole / 1e12:.2f}e12 | {folded / 1e12:.2f}e12 | {1 - folded / whole:.1%} |"
        )
        assert row.replace("%", " %") in PAGE
    weights = found["whole_weights"], found["folded_weights"]
    row = f"| {weights[0]:,} | {weights[1]:,} | {1 - weights[1] / weights[0]:.1%} |"
    assert row.replace(",", " ").replace("%", " %") in PAGE
