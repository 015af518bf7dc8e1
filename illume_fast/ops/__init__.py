"""The ops: plain functions, each with a reference and its backends. Loaded when first used.

`use_backend` forces a backend for a block of code.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOME = {
    "PackedCodebook": "nearest_code",
    "add_rms_norm": "rms_norm",
    "cfg_head_sample": "cfg_head_sample",
    "cfg_sample": "cfg_sample",
    "code_statistics": "code_statistics",
    "nearest_code": "nearest_code",
    "paged_append": "paged_append",
    "paged_attention": "paged_attention",
    "paged_prefill_attention": "paged_attention",
    "rms_norm": "rms_norm",
    "rope": "rope",
    "swiglu": "swiglu",
    "use_backend": "dispatch",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"illume_fast.ops has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"illume_fast.ops.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Ops(ModuleType):
    """Keeps `ops.swiglu` the op: importing the file of that name would otherwise put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Ops
