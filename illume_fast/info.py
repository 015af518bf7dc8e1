"""What this installation has, and why anything is missing: what `illume-fast info` prints."""

import importlib.metadata
import importlib.util
import platform
import sys

import torch

import illume_fast
from illume_fast.kernels import native
from illume_fast.ops.dispatch import forced_backend

OPTIONAL = ("transformers", "diffusers", "triton", "matplotlib", "pyarrow", "faiss-cpu")


def versions() -> dict[str, str]:
    """The versions of this package and of what it uses; "not installed" for an optional package that is absent."""
    found = {
        "illume_fast": illume_fast.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }
    for name in ("numpy", "pillow", "safetensors", "tokenizers", "tyro", "rich", *OPTIONAL):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed" + ("" if name in OPTIONAL else ", and needed")
    return found


def backends() -> dict[str, str]:
    """Each backend, and "ready" with what it runs on, or "missing" with the reason."""
    return {"reference": "ready: torch", "cpu": _cpu(), "cuda": _cuda(), "triton": _triton()}


def report() -> str:
    """Versions, threads and backends as lines of text."""
    threads = f"{torch.get_num_threads()} (torch.set_num_threads or OMP_NUM_THREADS changes it)"
    forced = forced_backend() or "none (ILLUME_FAST_BACKEND or use_backend forces one)"
    sections = {
        "versions": versions(),
        "backends": backends(),
        "settings": {"threads": threads, "forced backend": forced, "installed in": illume_fast.__path__[0]},
    }
    lines = []
    for title, entries in sections.items():
        lines += [title, *(f"  {name:<15} {text}" for name, text in entries.items())]
    return "\n".join(lines)


def _cpu() -> str:
    if native._C is None:
        return f"missing: {native.missing}"
    try:
        active = native._C.active_isa()
    except ValueError as error:
        return f"missing: {error}"
    return f"ready: {active} (this CPU has {', '.join(native.isas())}; ILLUME_FAST_ISA forces one)"


def _cuda() -> str:
    if reason := native.cuda_missing():
        return f"missing: {reason}"
    built = f"built for {native._C.cuda_architectures}"
    if native._C.cuda_device_count() == 0:
        return f"missing: {built}, but the driver offers no GPU"
    if torch.version.cuda is None:
        return f"missing: {built}, but this torch {torch.__version__} is without CUDA"
    if not torch.cuda.is_available():
        return f"missing: {built}, but torch finds no GPU"
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return f"ready: {built}, on {', '.join(sorted(names))}"


def _triton() -> str:
    if importlib.util.find_spec("illume_fast.kernels.triton") is None:
        return "missing: this version has no Triton kernels"
    if importlib.util.find_spec("triton") is None:
        return f"missing: triton is not installed{'' if sys.platform == 'linux' else ' (it is for Linux)'}"
    return "ready" if torch.cuda.is_available() else "missing: torch finds no GPU"
