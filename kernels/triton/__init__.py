"""Triton forms of the kernels. Triton is imported at the first call, since that takes as long as torch itself."""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from illume_fast.kernels.native import DTYPE_CODES


@cache
def missing() -> str | None:
    """Why there is no Triton here; None when there is."""
    return None if find_spec("triton") else "triton is not installed"


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, which takes tensors of any device (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def dot_widens() -> bool:
    """Whether factors of `tl.dot` must be float32: the interpreter multiplies the bits of bfloat16 numbers."""
    return interpreted()


def declines(*tensors: Tensor) -> str | None:
    """Why the Triton kernels cannot take these tensors; None when they can."""
    for tensor in tensors:
        if not tensor.is_cuda and not interpreted():
            return "needs CUDA tensors, or TRITON_INTERPRET=1"
        if tensor.dtype not in DTYPE_CODES:
            return f"no kernel for {tensor.dtype}"
    return missing()


def lazily(op: str, function: str = "run") -> Callable[..., Any]:
    """The `function` of `illume_fast.kernels.triton.<op>`, imported when first called."""

    def call(*args: Any) -> Any:
        return getattr(import_module(f"{__name__}.{op}"), function)(*args)

    return call
