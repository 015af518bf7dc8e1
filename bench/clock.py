"""Clocks: a turn of a contestant is a list of seconds, one for each call."""

import time
from collections.abc import Callable
from typing import Any

import torch

TURN_SECONDS = 0.02
_FLUSHED_BYTES = 256 << 20
_HELD_UP_CYCLES = 2_000_000  # about a millisecond

Turn = Callable[[], list[float]]


def on_cpu(call: Callable[[], Any]) -> Turn:
    """A short call is timed several times a turn, after one that brings its data and code into the caches."""

    def turn() -> list[float]:
        call()
        times: list[float] = []
        while sum(times) < TURN_SECONDS:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times

    return turn


def on_gpu(call: Callable[[], Any], *, cold: bool = False) -> Turn:
    """Time on the device, by events around replays of a CUDA graph; around plain calls where a call cannot be captured.

    The device is kept busy until a turn's calls are all queued, so that what is measured is not how fast they are.
    `cold` overwrites the second-level cache before each call.
    """
    replay = _captured(call)
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device="cuda") if cold else None

    def turn() -> list[float]:
        replay()
        pairs = []
        torch.cuda._sleep(_HELD_UP_CYCLES)
        for _ in range(20):
            if flushed is not None:
                flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replay()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    return turn


def _waits(call: Callable[[], Any]) -> bool:
    """Whether a call waits for the device. To capture one would fail, and leave the random numbers in disorder."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    return False


def _captured(call: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    if _waits(call):
        return call
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return call
    return graph.replay
