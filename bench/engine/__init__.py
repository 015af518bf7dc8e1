"""Benchmarks of whole generation: `illume-fast bench engine`.

`contest.py` says what a benchmark is and times it, `floor.py` what nobody can do without; each family is a file with a
list CONTESTS, and some with a list CURVES of those that differ in one number.
"""

from importlib import import_module
from typing import Any, Literal

_FAMILIES = {"cpu": ("janus", "qwen", "demo", "curves"), "cuda": ("illume_plus",)}
Kind = Literal["CONTESTS", "CURVES", "REHEARSAL"]


def contests(device: str = "cpu", kind: Kind = "CONTESTS") -> list[Any]:
    """The contests of a device's families; those of a GPU lie on curves already and can be rehearsed on tiny shapes."""
    modules = [import_module(f"{__name__}.{family}") for family in _FAMILIES[device]]
    return [contest for module in modules for contest in getattr(module, kind, [])]
