"""Memory of recorded steps: tensors whose addresses stay theirs, given again to the next when they are gone."""

import bisect
import math
import weakref

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 64


class Arena:
    """Hands out CPU tensors, and takes their memory back when nothing uses them any more.

    A recording keeps addresses, not tensors. That is enough: replayed in order, a kernel finds in a tensor's memory
    what the kernel before it wrote, even where two tensors of the recording had the same memory one after the other.
    All recordings of an engine share one arena, since no two of them run at once.
    """

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []  # (bytes, number of the buffer), smallest first
        self._buffers: list[np.ndarray] = []

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(len(buffer) for buffer in self._buffers)

    def empty(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with whatever was in its memory; in the smallest free buffer it fits into."""
        needed = math.prod(size) * dtype.itemsize
        at = bisect.bisect_left(self._free, (needed, 0))
        number = self._free.pop(at)[1] if at < len(self._free) else self._new(needed)
        view = self._buffers[number][: max(needed, 1)]
        # the tensor's storage holds `view`, and so does every view of the tensor
        tensor = torch.from_numpy(view)[:needed].view(dtype).view(size)
        weakref.finalize(view, self._give_back, number).atexit = False
        return tensor

    def _new(self, needed: int) -> int:
        room = max(needed, 1)
        raw = np.empty(room + _ALIGNMENT, np.uint8)
        skip = -raw.ctypes.data % _ALIGNMENT
        self._buffers.append(raw[skip : skip + room])
        return len(self._buffers) - 1

    def _give_back(self, number: int) -> None:
        bisect.insort(self._free, (len(self._buffers[number]), number))
