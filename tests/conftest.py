"""Shared fixtures of the tests: poisoned memory, every instruction set, and where recorded data lies.

Test files and helpers have unique names, since tests/ is no package. What they import is in support.py.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from support import ROOT

from illume_fast.kernels import native

hypothesis.settings.register_profile(
    "default",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def poisoned_allocations() -> Iterator[None]:
    """Fresh memory is NaN, so a kernel that leaves an element unwritten fails its test."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for every instruction set of the CPU kernels, forced; skips those this CPU lacks."""
    if request.param not in native.isas():
        pytest.skip(native.missing or f"this CPU has {', '.join(native.isas())}, not {request.param}")
    with native.use_isa(request.param):
        yield request.param


def _folder(variable: str, default: str, name: str) -> Path:
    base = Path(os.environ.get(variable) or ROOT / default)
    if not (base / name).is_dir():
        pytest.skip(f"{base / name} is absent; {variable} names the folder that holds {name}")
    return base / name


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """golden("dualvitok_tiny") is the folder of that recorded case; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_GOLDEN", "../shared/golden", name)


@pytest.fixture
def dataset() -> Callable[[str], Path]:
    """dataset("noto_emoji") is the folder of that data set; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_DATA", "../shared/data", name)
