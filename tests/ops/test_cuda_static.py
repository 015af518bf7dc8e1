"""The CUDA kernels without a GPU: what the compiler made of them, read out of the extension."""

import re
from pathlib import Path

import pytest
from support import ROOT

from illume_fast.bench import cubin, static
from illume_fast.kernels import native

compiled = pytest.mark.skipif(static.cuda_missing() is not None, reason=str(static.cuda_missing()))


@pytest.fixture(scope="module")
def rows():
    return cubin.usage(cubin.cuobjdump(), Path(native._C.__file__))


@compiled
def test_every_kernel_is_there_for_every_target(rows):
    targets = {f"sm_{target}" for target in native._C.cuda_architectures.split(",")}
    for file in (ROOT / "csrc" / "cuda").glob("*.cu"):
        names = set(re.findall(r"\b(\w+_kernel)\(", "\n".join(re.findall(r"__global__[^{]*\{", file.read_text()))))
        found = {(row["kernel"].split("<")[0], row["target"]) for row in rows if row["file"] == file.name}
        assert found == {(name, target) for name in names for target in targets}, file.name


@compiled
def test_nothing_spills(rows):
    assert all(row["registers"] > 0 for row in rows)
    assert [row for row in rows if row["stack"] or row["local"]] == []


@compiled
def test_codebook_search_multiplies_on_tensor_cores(rows):
    scores = [row for row in rows if row["kernel"] == "score_kernel"]
    cubin.add_instructions(cubin.cuobjdump(), Path(native._C.__file__), scores)
    assert scores
    assert all(row["tensor"] and row["spill_stores"] == row["spill_loads"] == 0 for row in scores), scores


def test_spills_are_told():
    text = """
arch = sm_90a
 Function _ZN2ns11slow_kernelEPf:
  REG:255 STACK:48 SHARED:128 LOCAL:0 CONSTANT[0]:424
"""
    (row,) = cubin.parse_usage(text)
    assert (row["target"], row["registers"], row["stack"], row["shared"]) == ("sm_90a", 255, 48, 128)
    assert static.spilling([{**row, "spill_stores": 0, "spill_loads": 0}]) == [f"{row['kernel']} (sm_90a)"]
