"""Telling that memory ran out from other errors."""

import torch

# what torch's allocators and libraries raise as a plain RuntimeError
_SIGNS = ("can't allocate memory", "not enough memory", "std::bad_alloc", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of this machine or of an accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
