"""illume_fast: fast kernels for unified multimodal models, and the ILLUME+ model that runs on them."""

from pathlib import Path

__version__ = "0.1.0"

# In a source checkout kernels/ sits beside this package rather than inside it (setup.py maps it in).
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").exists() and not (_checkout / "illume_fast" / "kernels").exists():
    __path__.append(str(_checkout))
