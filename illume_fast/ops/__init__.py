"""The ops: plain functions, each with a reference and its backends. Loaded when first used.

`use_backend` forces a backend for a block of code.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "use_backend": "dispatch",
    "add_rms_norm": "rms_norm",
    "paged_append": "paged_append",
    "paged_attention": "paged_attention",
    "paged_prefill_attention": "paged_attention",
    "rms_norm": "rms_norm",
    "rope": "rope",
    "swiglu": "swiglu",
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
