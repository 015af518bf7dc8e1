"""Recording a step on the CPU: every kernel call with its arguments, and a guard that nothing else computes
anything."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from illume_fast.engine.arena import Arena
from illume_fast.kernels import native
from illume_fast.ops.dispatch import ops_run_plainly

_EMPTY = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided")


class NotRecordableError(RuntimeError):
    """A step did something that a recording cannot hold."""


class CpuRecording:
    """A step's kernel calls. `replay` makes them again, on the same addresses, in one call.

    It holds the arena of what the step allocated; what the step was given is the caller's to keep.
    """

    def __init__(self, calls: Any, arena: Arena) -> None:
        self._calls = calls
        self._arena = arena

    def __len__(self) -> int:
        return len(self._calls)

    def replay(self) -> None:
        """Raises RuntimeError, naming the kernel, if one could not do its work; or if the thread is recording."""
        self._calls.replay()

    def profile(self) -> list[tuple[str, float]]:
        """Replays (and raises as it does), and says which kernel took how many seconds, in order."""
        return self._calls.profile()


def record_on_cpu(step: Callable[[], None], arena: Arena) -> CpuRecording:
    """Run `step` once, keeping its kernel calls; what it allocates comes from `arena`.

    Raises:
        NotRecordableError: there is no compiled extension, or something other than a view, an allocation or a kernel of
            ours was called: a replay would leave it out.
        RuntimeError: the calling thread is recording already.
    """
    if native.missing is not None:
        raise NotRecordableError(native.missing)
    calls = native._C.Recording()
    calls.start()
    try:
        with _Guard(arena), ops_run_plainly():
            step()
    finally:
        calls.stop()
    return CpuRecording(calls, arena)


class _Guard(TorchDispatchMode):
    """Lets views through, allocates from an arena, and refuses what else torch is asked to do."""

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self._arena = arena

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in _EMPTY:
            meta = func(*args, **{**kwargs, "device": "meta"})
            if not _is_on_cpu(args, kwargs) or not meta.is_contiguous():
                raise NotRecordableError(f"{name} of a tensor that is strided or elsewhere")
            return self._arena.empty(tuple(meta.shape), meta.dtype)
        if func.is_view:
            return func(*args, **kwargs)
        raise NotRecordableError(f"{name} is torch's own, and would not be replayed")


def _is_on_cpu(args: Any, kwargs: Any) -> bool:
    device = kwargs.get("device")
    if device is not None:
        return torch.device(device).type == "cpu"
    return all(x.is_cpu for x in args if isinstance(x, Tensor))
