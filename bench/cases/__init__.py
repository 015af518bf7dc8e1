"""All cases, by family: a file is a list CASES, and a list CURVES of cases that differ in one number."""

from importlib import import_module
from typing import TypeVar

from illume_fast.bench.case import Case, Measured

_Measured = TypeVar("_Measured", bound=Measured)

FAMILIES = ("search", "quantisation", "sampling", "layers", "products", "decoding", "tables")


def all_cases(*, curves: bool = False) -> list[Case]:
    """The cases of every family, or those that make up curves."""
    modules = [import_module(f"{__name__}.{family}") for family in FAMILIES]
    return [case for module in modules for case in getattr(module, "CURVES" if curves else "CASES", [])]


def select(cases: list[_Measured], ops: tuple[str, ...], names: tuple[str, ...]) -> list[_Measured]:
    """Those of the named ops whose name contains one of `names`; all where nothing is named.

    Raises:
        ValueError: an op without cases, or nothing is left.
    """
    known = sorted({case.op for case in cases})
    if unknown := sorted(set(ops) - set(known)):
        raise ValueError(f"no cases of op {', '.join(unknown)}; there are {', '.join(known)}")
    kept = [
        case
        for case in cases
        if (not ops or case.op in ops) and (not names or any(name in case.name for name in names))
    ]
    if not kept:
        raise ValueError(f"no case is called {' or '.join(names)}; there are: {'; '.join(case.name for case in cases)}")
    return kept
