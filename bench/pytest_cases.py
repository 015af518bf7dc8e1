"""The cases for people who live in pytest: `pytest bench/pytest_cases.py [-k nearest_code]`, with pytest-benchmark.

Each case is checked, then ours and every peer are timed, a group for each case.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads its threads

import pytest

from illume_fast.bench.case import Case
from illume_fast.bench.cases import all_cases

pytest.importorskip("pytest_benchmark")

CASES = all_cases()
CONTESTANTS = [
    pytest.param(case, who, id=f"{case.op}-{case.name}-{who}") for case in CASES for who in ("illume_fast", *case.peers)
]


@pytest.mark.parametrize(("case", "who"), CONTESTANTS)
def test_case(benchmark, case: Case, who: str) -> None:
    """One contestant of one case."""
    inputs = case.make()
    arguments = case.prepare(*inputs) if case.prepare else inputs
    call = case.ours if who == "illume_fast" else case.peers[who]
    benchmark.group = f"{case.op}: {case.name}"
    result = benchmark(call, *arguments)
    if who == "illume_fast":
        case.check(result, *arguments)
