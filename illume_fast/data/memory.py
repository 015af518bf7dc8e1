"""Telling that memory ran out from other errors."""

import torch

# what torch's allocators and libraries raise as a plain RuntimeError; the last is oneDNN's, whose products and
# convolutions say no more than that when they get no memory to work in
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "out of memory",
    "could not create a primitive",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of this machine or of an accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
