"""Peers in processes of their own.

A file here is a program, called with a folder and what else a case says. It reads the arrays 0.npy, 1.npy, ... from the
folder, writes `result.npy` there, prints a line, and then answers every line on its input with a turn's times as JSON.
It imports neither torch nor us, or an `illume_fast` of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# what each program imports
LIBRARIES = {"faiss_search": "faiss"}


def missing_library(program: str) -> str | None:
    """Why the program cannot run here; None when it can."""
    library = LIBRARIES[program]
    return None if importlib.util.find_spec(library) else f"{library} is not installed"


class Outside:
    """A running program, for use in a `with` block: its `result`, and `turn()`, the seconds of some calls."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        inputs: Sequence[Any] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._program, self._arguments, self._inputs = program, arguments, inputs
        self._environment = environment or {"OMP_WAIT_POLICY": "passive"}

    def __enter__(self) -> "Outside":
        self._folder = tempfile.TemporaryDirectory(prefix="illume_fast_bench_")
        folder = Path(self._folder.name)
        for i, x in enumerate(self._inputs):
            if isinstance(x, Tensor):
                np.save(folder / f"{i}.npy", x.cpu().float().numpy() if x.is_floating_point() else x.cpu().numpy())
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **self._environment}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(f"{self._program}.py")), str(folder), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()
        self.result = torch.from_numpy(np.load(folder / "result.npy"))
        return self

    def turn(self) -> list[float]:
        """Ask for one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench: {self._program} stopped with exit code {self._process.wait()}")
        return json.loads(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._folder.cleanup()
