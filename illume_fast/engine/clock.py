"""How long a step takes, without making the device wait for the host."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """`mark` is now; `seconds` lie between two marks, and asking for them may wait for the second."""

    def mark(self) -> Any: ...

    def seconds(self, since: Any, until: Any) -> float: ...


class HostClock:
    """For a device whose work is done when a call returns: time of the processor, of the thread that steps.

    By the wall's clock, steps that take long would look worse than they are on a machine that others use too: they are
    interrupted more often. The other threads of a step keep pace with this one.
    """

    def mark(self) -> float:
        return time.thread_time()

    def seconds(self, since: float, until: float) -> float:
        return until - since


class StreamClock:
    """For a GPU: a mark is an event in its stream, when it gets there and not when the host does.

    Between two steps that overlap with the host lies what the GPU works; where it waits for the host, that counts too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, since: torch.cuda.Event, until: torch.cuda.Event) -> float:
        until.synchronize()
        return since.elapsed_time(until) / 1000


def clock_of(device: torch.device) -> Clock:
    return StreamClock(device) if device.type == "cuda" else HostClock()
