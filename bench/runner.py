"""Checks a case, then times ours and the peers in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any

from torch import Tensor

from illume_fast.bench.case import Case, Measured
from illume_fast.bench.clock import Turn, on_cpu, on_gpu
from illume_fast.bench.machine import bandwidth, multiply_rate, where
from illume_fast.bench.outside import Outside, missing_library
from illume_fast.ops import use_backend
from illume_fast.ops.dispatch import BackendError

OURS = "illume_fast"
_FEWEST = 5


def run(
    case: Case,
    seconds: float,
    *,
    device: str = "cpu",
    backends: Sequence[str] = (),
    peers: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Time a case for about `seconds`; one row for each contestant, ours first.

    `backends` are ours to time, each forced; by default what runs when none is forced. `peers` are names to keep (a
    part of a name will do); None keeps all. A backend that declines is left out, with its reason; outside peers run on
    the CPU alone, and where their library is installed. A peer that fails is left out likewise.

    Raises:
        RuntimeError: a result of ours, or of an outside peer, is wrong.
    """
    inputs = tuple(_moved(x, device) for x in case.make())
    with ExitStack() as stack:
        arguments = case.prepare(*inputs) if case.prepare else inputs
        turns: dict[str, Turn] = {}
        for name, call in _ours(case, backends).items():
            try:
                result = call(*arguments)
            except BackendError as error:
                print(f"{'':10} left out: {name}: {error}", flush=True)
                continue
            case.check(result, *arguments)
            turns[name] = _turn(call, arguments, device)
        if not turns:
            return []
        others = {**case.peers, **(case.gpu_peers if device != "cpu" else {})}
        for name, call in kept(others, peers).items():
            try:
                call(*arguments)
                turns[name] = _turn(call, arguments, device)
            except Exception as error:  # whatever a library of others may raise
                reason = (str(error).splitlines() or [""])[0]
                print(f"{'':10} left out: {name}: {type(error).__name__}: {reason}", flush=True)
        if device == "cpu":
            for name, (program, *options) in kept(case.outside, peers).items():
                if missing_library(program) is None:
                    process = stack.enter_context(Outside(program, options, inputs))
                    case.check(process.result, *arguments)
                    turns[name] = process.turn
        times = take_turns(turns, seconds)
    return rows_of(case, times, device)


def take_turns(turns: Mapping[str, Turn], seconds: float, fewest: int = _FEWEST) -> dict[str, list[float]]:
    """One contestant after the other for about `seconds`, until each has made at least `fewest` calls."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < fewest:
        for name, turn in turns.items():
            times[name] += turn()
    return times


def _ours(case: Case, backends: Sequence[str]) -> dict[str, Callable[..., Any]]:
    def forced(backend: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with use_backend(backend):
                return case.ours(*arguments)

        return call

    return {f"{OURS} ({name})": forced(name) for name in backends} or {OURS: case.ours}


def kept(named: Mapping[str, Any], parts: Sequence[str] | None) -> dict[str, Any]:
    """Those whose name holds one of `parts`; all of them for None."""
    return {name: x for name, x in named.items() if parts is None or any(part in name for part in parts)}


def _moved(x: Any, device: str) -> Any:
    return x.to(device) if isinstance(x, Tensor) else x


def _turn(call: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> Turn:
    def bound() -> Any:
        return call(*arguments)

    return on_cpu(bound) if device == "cpu" else on_gpu(bound)


def rows_of(case: Measured, times: Mapping[str, Sequence[float]], device: str) -> list[dict[str, Any]]:
    """A row for each contestant, from the seconds of its calls; ours come first."""
    return [_row(case, name, values, times, device) for name, values in times.items()]


def _row(
    case: Measured, who: str, values: Sequence[float], times: Mapping[str, Sequence[float]], device: str
) -> dict[str, Any]:
    floor = max(case.bytes / bandwidth(device, case.footprint), case.operations / multiply_rate(case.rounded, device))
    ours = median(next(iter(times.values())))
    low, *_, high = quantiles(values, n=5) if len(values) > 1 else values * 2
    return {
        "op": case.op,
        "case": case.name,
        "who": who,
        "median_ms": median(values) * 1e3,
        "p20_ms": low * 1e3,
        "p80_ms": high * 1e3,
        "min_ms": min(values) * 1e3,
        "calls": len(values),
        "floor_ms": floor * 1e3,
        "ours_is_faster_by": median(values) / ours,
        **({} if case.scale is None else dict(zip(("curve", "axis", "at"), case.scale, strict=True))),
        **where(device),
    }
