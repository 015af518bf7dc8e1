"""What test files import: the device, tolerances, comparison with a wider type, and backends to parametrise over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from illume_fast.ops.dispatch import Op

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# relative to the largest reference value: about two roundings of the output dtype
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


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


def backends_here(*ops: Op) -> list[str]:
    """Those of `backend_names` that are for this device, for tests that go through them in a loop."""
    return [name for name in backend_names(*ops) if name in (DEVICE, "reference")]


def skip_unless_runs(op: Op, backend: str, *args: object) -> None:
    """Skip the test, saying why, when the backend declines these arguments."""
    choice = next((c for c in op.choices if c.name == backend), None)
    reason = "no such backend for this op" if choice is None else choice.declines(*args)
    if reason is not None:
        pytest.skip(f"{op.__name__}: {backend}: {reason}")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """torch's and our kernels' number of threads in this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
