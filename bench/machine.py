"""What a figure depends on besides the code, and what the machine could do at best, measured on the spot."""

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from illume_fast.kernels import native

_LIBRARIES = ("torch", "triton", "transformers", "faiss-cpu", "flashinfer-python", "flash-kmeans", "liger-kernel")


@cache
def bandwidth(device: str = "cpu", footprint: int = 0) -> float:
    """Bytes per second: on the CPU what all threads together read, on a GPU what a copy reads and writes.

    What is read over and over are `footprint` bytes, which caches may hold; 0 means more than any cache does.
    """
    data = torch.ones(1 << (25 if device == "cpu" else 28), dtype=torch.float32, device=device)
    if device == "cpu":
        data = data[: footprint // 4 or None]
        return data.numel() * 4 / _best(data.max, device)
    other = torch.empty_like(data)
    return 2 * data.numel() * 4 / _best(lambda: other.copy_(data), device)


@cache
def multiply_rate(rounded: bool = False, device: str = "cpu") -> float:
    """Operations per second, a multiply-add being two; the best of several.

    On the CPU all threads in registers, on float32 numbers, or on such as were `rounded` to bfloat16, where the CPU has
    an instruction for those. On a GPU a product of two large matrices, in bfloat16 or in float32 as torch is set.
    """
    if device != "cpu":
        size = 8192
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if rounded else torch.float32)
        return 2 * size**3 / _best(lambda: a @ a, device)
    if native.missing is not None:
        raise RuntimeError(f"bench: the floor needs the extension: {native.missing}")
    rounds = 200_000
    loop = native._C.rounded_multiply_adds if rounded else native._C.multiply_adds
    operations = loop(1)
    return operations * rounds / _best(lambda: loop(rounds), device)


def _best(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest call in half a second, at least 20: others may hold up the machine for a while."""
    best, calls, begun = float("inf"), 0, time.perf_counter()
    while calls < 20 or time.perf_counter() - begun < 0.5:
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


@cache
def where(device: str = "cpu") -> dict[str, Any]:
    """Device, what it can do, versions, commit, date and load, as they go into every row."""
    name = f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "device": name if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "isa": None if native.missing or device != "cpu" else native._C.active_isa(),
        "bandwidth_GB_per_s": bandwidth(device) / 1e9,
        "float32_GFLOP_per_s": multiply_rate(False, device) / 1e9,
        "bfloat16_GFLOP_per_s": multiply_rate(True, device) / 1e9,
        "load_average": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version for name in _LIBRARIES if (version := _version(name)) is not None},
    }


def _commit() -> str:
    """The commit of this checkout, or what ILLUME_FAST_COMMIT says of a copy without its history."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            return ""

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return os.environ.get("ILLUME_FAST_COMMIT", "")
    return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
