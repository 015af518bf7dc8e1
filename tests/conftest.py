"""Shared rules of the tests: device, tolerances, poisoned memory, and where recorded data lies.

Test files have unique names, since tests/ is no package; they `from conftest import DEVICE, assert_matches`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor

from illume_fast.kernels import native
from illume_fast.ops.dispatch import Op

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# relative to the largest reference value: about two roundings of the output dtype
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

hypothesis.settings.register_profile(
    "default",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("default")


def assert_matches(actual: Tensor, expected: Tensor, label: str, *, tolerance: float | None = None) -> None:
    """`actual` equals `expected` (of a wider type) up to rounding of actual's dtype, relative to the largest value."""
    assert actual.shape == expected.shape, f"{label}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    if actual.numel() == 0:
        return
    tolerance = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    assert actual.isfinite().all(), f"{label}: {int((~actual.isfinite()).sum())} values are not finite"
    error = ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
    assert error <= tolerance, f"{label}: relative error {error:.2e} exceeds {tolerance:.0e}"


def backend_names(*ops: Op) -> list[str]:
    """The names of the backends of these ops, to parametrise tests over."""
    return list(dict.fromkeys(choice.name for op in ops for choice in op.choices))


def skip_unless_runs(op: Op, backend: str, *args: object) -> None:
    """Skip the test, saying why, when the backend declines these arguments."""
    choice = next((c for c in op.choices if c.name == backend), None)
    reason = "no such backend for this op" if choice is None else choice.declines(*args)
    if reason is not None:
        pytest.skip(f"{op.__name__}: {backend}: {reason}")


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


@pytest.fixture
def golden() -> Callable[[str], Path]:
    """golden("dualvitok_tiny") is the folder of that recorded case; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_GOLDEN", "../shared/golden", name)


@pytest.fixture
def dataset() -> Callable[[str], Path]:
    """dataset("noto_emoji") is the folder of that data set; skips where it is absent."""
    return lambda name: _folder("ILLUME_FAST_DATA", "../shared/data", name)
