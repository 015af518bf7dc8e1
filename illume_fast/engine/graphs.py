"""Steps that are launched whole: recordings on the CPU, CUDA graphs on a GPU.

The first step of a shape runs as it is, the second is recorded, and the later ones replay it. A replay makes the same
kernel calls on the same addresses, so it computes what the step would compute now, without the time Python and torch
take to get there.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

from illume_fast.engine.arena import Arena
from illume_fast.engine.recorder import NotRecordableError, record_on_cpu

_KEPT = 256
_MET = 4096


class Recording(Protocol):
    """A step that can be made again."""

    def replay(self) -> None: ...


class Graphs:
    """Runs steps, replaying those whose shape it has met before; the least recently used recordings go first.

    `recorded` and `replays` count; `refusal` says why nothing can be recorded, or is None.
    """

    def __init__(self, device: torch.device, wanted: bool | None) -> None:
        self.recorded = self.replays = 0
        self.refusal: str | None = "EngineConfig(graphs=False)" if wanted is False else None
        self._required = wanted is True
        self._cuda = device.type == "cuda"
        self._kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self._met: set[Hashable] = set()
        self._arena = Arena()
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
        if not self._cuda and device.type != "cpu":
            self._refuse(f"steps are not recorded on {device.type}")

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Make the step once. `step` must depend on `key` and on what stands at fixed addresses alone."""
        if self.refusal is not None:
            return step()
        recording = self._kept.get(key)
        if recording is not None:
            self._kept.move_to_end(key)
            recording.replay()
            self.replays += 1
        elif key not in self._met:
            # many shapes of a mixed batch come once; on a GPU this also sets up what is set up lazily
            self._meet(key)
            step()
        elif self._cuda:
            self._capture(key, step)
        else:
            self._record(key, step)

    def forget(self) -> None:
        """Drop all recordings: an address they hold is out of date."""
        self._kept.clear()
        self._met.clear()

    def _meet(self, key: Hashable) -> None:
        if len(self._met) >= _MET:
            self._met.clear()
        self._met.add(key)

    def _record(self, key: Hashable, step: Callable[[], None]) -> None:
        try:
            self._keep(key, record_on_cpu(step, self._arena))
        except NotRecordableError as error:
            self._refuse(str(error))
            step()

    def _capture(self, key: Hashable, step: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._keep(key, graph)
        graph.replay()
        self.replays += 1

    def _keep(self, key: Hashable, recording: Recording) -> None:
        self._kept[key] = recording
        self.recorded += 1
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _refuse(self, reason: str) -> None:
        if self._required:
            raise RuntimeError(f"EngineConfig(graphs=True): {reason}")
        self.refusal = reason
