"""Between the host and the device that works behind it: copies that nobody waits for until they are needed.

A GPU copies by itself, in the order of its stream, where the host's memory is pinned. torch keeps a pinned block until
the copies from it are through, so what is sent may be forgotten at once. On a CPU there is nothing to wait for.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(values: NDArray | Tensor, device: torch.device) -> Tensor:
    """`values` on `device`, which may still be on their way; on a CPU they themselves."""
    return staged(values, device).to(device, non_blocking=True)


def send(values: NDArray | Tensor, target: Tensor) -> None:
    """Write `values` into `target`, whose shape they have."""
    target.copy_(staged(values, target.device), non_blocking=True)


def staged(values: NDArray | Tensor, device: torch.device) -> Tensor:
    """`values` where `device` can fetch them by itself: in pinned memory, if they are the host's and it is a GPU."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" and tensor.is_cpu else tensor


class Fetch:
    """A copy of a tensor of ids, on its way to the host since this was made."""

    def __init__(self, source: Tensor) -> None:
        self._there = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
        self._there.copy_(source, non_blocking=True)
        self._done = torch.cuda.Event() if source.is_cuda else None
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(source.device))

    def ids(self) -> NDArray[np.int64]:
        """Waits for it."""
        if self._done is not None:
            self._done.synchronize()
        return self._there.numpy()
