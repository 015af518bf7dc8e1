"""The compiled extension `illume_fast.kernels._C`, or the reason it is missing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # first, so that the extension finds torch's OpenMP runtime loaded and shares its threads
from torch import Tensor

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/include/illume_fast/dtype.h

_BUILD_REPORT = Path(__file__).with_name("_build_report.json")


def build_report() -> dict[str, str]:
    """What the build wrote down: `native` and `cuda`, each "built" or the reason it was left out."""
    try:
        return json.loads(_BUILD_REPORT.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        from illume_fast.kernels import _C
    except ImportError as error:
        reason = build_report().get("native", "built")
        if reason == "built":
            reason = f"the extension cannot be imported: {error}"
        return None, f"{reason} (rebuild with: make build)"
    return _C, None


# `_C` is None when the extension is missing; `missing` then says why, and is None otherwise
_C: Any
missing: str | None
_C, missing = _load()


def declines_cpu(*tensors: Tensor) -> str | None:
    """Why the CPU kernels cannot take these tensors; None when they can."""
    if missing is not None:
        return missing
    for tensor in tensors:
        if not tensor.is_cpu:
            return "needs CPU tensors"
        if tensor.dtype not in DTYPE_CODES:
            return f"no kernel for {tensor.dtype}"
    return None


def cuda_missing() -> str | None:
    """Why there are no CUDA kernels in this build; None when there are."""
    if missing is not None:
        return missing
    if _C.cuda_architectures is None:
        return build_report().get("cuda", "the extension was built without CUDA")
    return None


def declines_cuda(*tensors: Tensor) -> str | None:
    """Why the CUDA kernels cannot take these tensors; None when they can."""
    for tensor in tensors:
        if not tensor.is_cuda:
            return "needs CUDA tensors"
        if tensor.dtype not in DTYPE_CODES:
            return f"no kernel for {tensor.dtype}"
    return cuda_missing()


def launch_cuda(kernel: str, on: Tensor, *arguments: Any, op: str | None = None) -> None:
    """Call the CUDA launcher of `kernel` with these arguments, on the current stream of the device of `on`.

    Raises:
        RuntimeError: it could not be launched; `op` is what the message names, where it is not the kernel.
    """
    with torch.cuda.device(on.device):
        code = getattr(_C, f"cuda_{kernel}")(*arguments, torch.cuda.current_stream().cuda_stream)
    raise_cuda_error(op or kernel, code)


def raise_cuda_error(op: str, code: int) -> None:
    """Raise a RuntimeError for the error code that a CUDA launcher returned; 0 is success."""
    if code != 0:
        raise RuntimeError(f"{op}: CUDA error {code}: {_C.cuda_error_string(code)}")


def isas() -> list[str]:
    """Instruction sets that the CPU kernels can use here, slowest first; empty without the extension."""
    return [] if _C is None else _C.available_isas()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the CPU kernels inside the block with the instruction set `name`, process-wide.

    Raises ValueError naming what this CPU has when it lacks `name`, RuntimeError without the extension.
    """
    if missing is not None:
        raise RuntimeError(f"use_isa: {missing}")
    before = _C.active_isa()
    _C.set_isa(name)
    try:
        yield
    finally:
        _C.set_isa(before)


def kernel_seconds() -> float:
    """Seconds that all threads of this process have spent in calls of CPU kernels so far; 0 without the extension."""
    return 0.0 if _C is None else _C.kernel_seconds()
