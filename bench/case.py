"""What a benchmark is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a benchmark is called, and what nobody can do without.

    `bytes` and `operations` are what no implementation can avoid; the floor is the longer of the two at this machine's
    rates. Operations are on float32 numbers, or on such as may be `rounded` to bfloat16 first. `footprint` are the
    bytes that are read over and over, 0 where no cache would hold them.

    `scale` places the case on a curve: (name of the curve, name of its axis, value on it).
    """

    op: str
    name: str
    bytes: int = 0
    operations: int = 0
    footprint: int = 0
    rounded: bool = False
    scale: tuple[str, str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Case(Measured):
    """One benchmark of an op: inputs, what is ours, what others do, and when a result is right.

    `make()` gives the inputs on the CPU; they are moved to the device, and `prepare(*inputs)` makes of them what the
    calls get. `ours` and each of `peers` are called with that, and on a GPU each of `gpu_peers` too. `outside` names
    peers that need a process of their own, each a program in `outside/` and its arguments: they bring another OpenMP
    runtime, and two of those in a process slow each other down. `check(result, *inputs)` raises unless a result is
    right; it is asked of ours and of every outside peer.
    """

    make: Callable[[], tuple[Any, ...]]
    ours: Call
    peers: Mapping[str, Call]
    check: Callable[..., None]
    gpu_peers: Mapping[str, Call] = field(default_factory=dict)
    prepare: Callable[..., tuple[Any, ...]] | None = None
    outside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
