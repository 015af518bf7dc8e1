"""When a result is right."""

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}


def near(op: str, actual: Tensor, expected: Tensor, most: float | None = None) -> None:
    """`actual` is `expected` to within `most`, relative to the largest value; by default the rounding of its dtype.

    Raises:
        RuntimeError: it is not, or one of them holds NaN.
    """
    most = TOLERANCE[actual.dtype] if most is None else most
    error = float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())
    if not error < most:
        raise RuntimeError(f"{op}: relative error {error:.1e}, at most {most:.1e} allowed")
