"""Several workers of one job on this machine, each in a process of its own, started again when they die."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from illume_fast.data.errors import InputError
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.process import kind_of
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.source import Source
from illume_fast.jobs.tally import Tally

_DEATHS_ALLOWED = 3
_EVENTS_WAITING = 1024


class WorkerError(RuntimeError):
    """A worker died again and again; what it had done is kept."""


def local_devices(devices: str, workers: int = 1) -> list[str]:
    """The device of each worker: of "all" every GPU that torch sees, or else the CPU; or those named, with commas.

    `workers` of them run on each. InputError for a device that there is not.
    """
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if devices == "all":
        return [device for device in gpus or ["cpu"] for _ in range(workers)]
    names = [name.strip() for name in devices.split(",")]
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise InputError(f"device {name!r} is not known; give all, cpu, or GPUs like cuda:0,cuda:1")
        if name != "cpu" and name.replace("cuda", "cuda:0") not in gpus and name not in gpus:
            raise InputError(f"device {name}: torch sees {', '.join(gpus) or 'no GPU'} here")
    return [name for name in names for _ in range(workers)]


@dataclass(eq=False)
class Worker:
    """A part of the job, and what its processes, one after the other, have counted."""

    shard: Shard
    device: str
    process: subprocess.Popen[bytes] | None = None
    now: dict[str, int] = field(default_factory=dict)
    drawn_before: int = 0
    furthest: int = 0
    deaths: int = 0
    error: str | None = None

    def __str__(self) -> str:
        return f"worker {self.shard} on {self.device}"

    def count(self, counts: dict[str, int]) -> bool:
        """Take the counts of the present process; whether it came further than those before."""
        self.now = counts
        further = sum(counts.values()) > self.furthest
        self.furthest = max(self.furthest, sum(counts.values()))
        return further

    def tally(self) -> tuple[int, int, int]:
        """How many pictures were drawn, were there before the first process, and failed."""
        drawn = self.drawn_before + self.now.get("drawn", 0)
        # what an earlier process has drawn, this one keeps
        return drawn, max(0, self.now.get("kept", 0) - self.drawn_before), self.now.get("failed", 0)


class Crew:
    """Runs the workers of `devices` on the parts of `config.shard`, and tells `tally` how far they are."""

    def __init__(self, source: Source, config: JobConfig, devices: Sequence[str], tally: Tally) -> None:
        self._kind, self._path = kind_of(source)
        self._config, self._tally = config, tally
        parts = Shard.parse(config.shard).split(len(devices))
        self._workers = [Worker(part, device) for part, device in zip(parts, devices, strict=True)]
        self._events: queue.Queue[tuple[Worker, dict[str, Any] | None]] = queue.Queue(_EVENTS_WAITING)

    def run(self) -> None:
        """Return when all have finished.

        Raises:
            InputError: what one of them raised; the others are stopped.
            WorkerError: one died several times without getting further; the others have finished.
        """
        try:
            for worker in self._workers:
                self._start(worker)
            while any(worker.process is not None for worker in self._workers):
                worker, event = self._events.get()
                if event is None:
                    self._ended(worker)
                else:
                    self._heard(worker, event)
        finally:
            for worker in self._workers:
                if worker.process is not None:
                    _kill(worker.process)
        errors = [worker.error for worker in self._workers if worker.error is not None]
        if errors:
            raise WorkerError("; ".join(errors) + "; what was done is kept")

    def _start(self, worker: Worker) -> None:
        config = {**self._config.to_json(), "out": str(self._config.out.absolute())}
        spec = {"kind": self._kind, "path": str(self._path.absolute()), "config": config}
        spec |= {"shard": str(worker.shard), "device": worker.device}
        environment = dict(os.environ)
        if worker.device == "cpu":
            sharing = sum(other.device == "cpu" for other in self._workers)
            environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // sharing)))
        worker.now = {}
        worker.process = subprocess.Popen(
            [sys.executable, "-m", "illume_fast.jobs.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C in a terminal reaches this process, which then stops them
            start_new_session=True,
        )
        assert worker.process.stdin is not None
        # one that is dead by now is heard of where its events end
        with suppress(BrokenPipeError):
            worker.process.stdin.write(json.dumps(spec).encode() + b"\n")
            worker.process.stdin.flush()
        threading.Thread(target=self._listen, args=(worker, worker.process), daemon=True).start()

    def _listen(self, worker: Worker, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith(b"\n"):
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, None))

    def _heard(self, worker: Worker, event: dict[str, Any]) -> None:
        if "error" in event:
            raise InputError(event["error"])
        if "say" in event:
            self._tally.say(f"{worker}: {event['say']}")
            return
        if worker.count(event):
            worker.deaths = 0
        drawn, kept, failed = (sum(counts) for counts in zip(*(w.tally() for w in self._workers), strict=True))
        self._tally.update(drawn=drawn, kept=kept, failed=failed)

    def _ended(self, worker: Worker) -> None:
        assert worker.process is not None
        code = worker.process.wait()
        _close(worker.process)
        worker.process = None
        if code == 0:
            return
        worker.deaths += 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        worker.drawn_before += worker.now.get("drawn", 0)
        if worker.deaths > _DEATHS_ALLOWED:
            worker.error = f"{worker} {how}, for the {worker.deaths}th time without getting further"
            self._tally.say(worker.error)
            return
        self._tally.say(f"{worker} {how}; started again")
        self._start(worker)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
