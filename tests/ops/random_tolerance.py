"""How near a result must be to float64, and the comparison."""

import torch
from torch import Tensor

EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
TINY = {torch.float32: 1e-37, torch.bfloat16: 1e-37, torch.float16: 1e-7}
LARGE = {torch.float32: 1e37, torch.bfloat16: 1e37, torch.float16: 6e4}


def exact(x: Tensor) -> Tensor:
    """The same numbers in float64 on the CPU."""
    return x.detach().double().cpu()


def assert_within(actual: Tensor, expected: Tensor, slack: Tensor) -> None:
    """|actual - expected| <= slack (float64) wherever expected is a number that the dtype holds; NaN stays NaN."""
    actual, expected, slack = (exact(t) for t in torch.broadcast_tensors(actual.cpu(), expected, slack))
    assert (actual.isnan() | ~expected.isnan()).all(), "a NaN was lost"
    judged = expected.isfinite() & slack.isfinite()
    wrong = judged & ~((actual - expected).abs() <= slack)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}: {actual[wrong][:3]}, not {expected[wrong][:3]}"


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """The same numbers, NaN in the same places."""
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.nan_to_num(7.0), expected.nan_to_num(7.0))


def roundings(expected: Tensor, dtype: torch.dtype, count: float = 4.0) -> Tensor:
    """A few roundings of dtype; infinite where the dtype cannot hold the number."""
    slack = count * EPS[dtype] * expected.abs() + TINY[dtype]
    return torch.where(expected.abs() < LARGE[dtype], slack, torch.inf)
