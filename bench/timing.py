"""The clock: contestants in turn, medians with quantiles, the machine's own floors, rows that say where and when."""

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from illume_fast.kernels import native

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Case:
    """One benchmark: `make()` gives the inputs, `ours` and each of `peers` is called with them.

    `check(ours' result, *inputs)` raises unless the result is right. `bytes` and `operations` are what no
    implementation can avoid; the floor is the longer of the two at this machine's rates. Operations are on float32
    numbers, or on such as may be `rounded` to bfloat16 first.
    """

    op: str
    name: str
    make: Callable[[], tuple[Any, ...]]
    ours: Callable[..., Any]
    peers: dict[str, Callable[..., Any]]
    check: Callable[..., None]
    bytes: int = 0
    operations: int = 0
    rounded: bool = False


def run(case: Case, seconds: float) -> list[dict[str, Any]]:
    """Check, then time ours and the peers in turn for about `seconds`; one row each, ours first."""
    inputs = case.make()
    case.check(case.ours(*inputs), *inputs)
    contestants = {"illume_fast": case.ours, **case.peers}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in contestants.items():
            # a short call is timed several times a turn, after one that brings its data and code into the caches
            call(*inputs)
            turn = 0.0
            while turn < 0.02:
                start = time.perf_counter()
                call(*inputs)
                times[name].append(time.perf_counter() - start)
                turn += times[name][-1]
    floor = max(case.bytes / bandwidth(), case.operations / multiply_rate(case.rounded))
    ours = median(times["illume_fast"])
    return [
        {
            "op": case.op,
            "case": case.name,
            "who": name,
            "median_ms": median(values) * 1e3,
            **dict(zip(("p20_ms", "p80_ms"), (q * 1e3 for q in quantiles(values, n=5)[::3]), strict=True)),
            "min_ms": min(values) * 1e3,
            "calls": len(values),
            "floor_ms": floor * 1e3,
            "ours_is_faster_by": median(values) / ours,
            **where(),
        }
        for name, values in times.items()
    ]


@cache
def bandwidth() -> float:
    """Bytes per second that all threads together read from memory, the best of several."""
    data = torch.ones(1 << 25, dtype=torch.float32)
    return data.numel() * 4 / _best(lambda: data.max())


@cache
def multiply_rate(rounded: bool = False) -> float:
    """Operations per second of all threads in registers, a multiply-add being two; the best of several.

    On float32 numbers, or on such as were `rounded` to bfloat16, where the CPU has an instruction for those.
    """
    if native.missing is not None:
        raise RuntimeError(f"bench: the floor needs the extension: {native.missing}")
    rounds = 200_000
    loop = native._C.rounded_multiply_adds if rounded else native._C.multiply_adds
    operations = loop(1)
    return operations * rounds / _best(lambda: loop(rounds))


def _best(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@cache
def where() -> dict[str, Any]:
    """What a figure depends on besides the code: machine, versions, commit, date and load."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return {
        "device": f"{_processor()}, {torch.get_num_threads()} threads",
        "isa": None if native.missing else native._C.active_isa(),
        "bandwidth_GB_per_s": bandwidth() / 1e9,
        "float32_GFLOP_per_s": multiply_rate() / 1e9,
        "bfloat16_GFLOP_per_s": multiply_rate(True) / 1e9,
        "load_average": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() + ("+changes" if changes.stdout.strip() else ""),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers")},
    }


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
