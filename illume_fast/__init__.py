"""illume_fast: fast kernels for unified multimodal models, and the ILLUME+ model that runs on them."""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "IllumeConfig",
    "IllumeForConditionalGeneration",
    "IllumePipeline",
    "IllumeProcessor",
    "IllumeQwen2Config",
    "IllumeQwen2ForCausalLM",
    "generate_batch",
]

# In a source checkout kernels/ sits beside this package rather than inside it (setup.py maps it in).
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").exists() and not (_checkout / "illume_fast" / "kernels").exists():
    __path__.append(str(_checkout))
_HOMES = {"generate_batch": "illume_fast.jobs.batch", "IllumePipeline": "illume_fast.pipeline"}


def __getattr__(name: str) -> Any:
    # looked up when it is asked for, so that `import illume_fast` alone stays quick
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "illume_fast.huggingface")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
