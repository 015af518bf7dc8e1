"""The Triton kernels without a GPU: interpreted, and compiled ahead of time."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from illume_fast.kernels.triton import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.slow
def test_the_kernels_do_what_the_reference_does_when_interpreted():
    # a process of its own: whether kernels are interpreted is settled when they are declared
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/interpreted"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_the_kernels_compile_ahead_of_time_without_spills():
    from illume_fast.bench.static import TRITON_TARGETS, triton_rows

    rows = triton_rows()
    assert {row["target"] for row in rows} == {f"sm_{target}" for target in TRITON_TARGETS}
    for row in rows:
        assert row["registers"] > 0
        assert row["spill_stores"] == row["spill_loads"] == 0, row
    for name in ("score_kernel", "attend_kernel", "statistics_kernel", "gradient_kernel"):
        assert all(row["tensor"] for row in rows if row["kernel"] == name), f"{name}: no tensor-core instructions"
