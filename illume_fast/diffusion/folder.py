"""A folder as diffusers writes it: `unet/`, `vae/`, `scheduler/`, each with its config; safetensors, read strictly."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.model.tensor_files import CheckpointError, read_json
from illume_fast.model.tensor_reader import Weights, fill

WEIGHTS = "diffusion_pytorch_model"
OWN_NOISE = ("DPMSolverSDEScheduler",)
"""Schedulers that draw noise without being given a generator."""


def diffusers() -> Any:
    """The library. InputError when it is not installed."""
    try:
        import diffusers as library
    except ImportError:
        raise InputError("diffusers is not installed (pip install 'illume-fast[diffusion]')") from None
    return library


def require_parts(folder: Path, parts: tuple[str, ...] = ("unet", "vae", "scheduler")) -> None:
    """CheckpointError unless `folder` has all of `parts`."""
    missing = [f"{part}/" for part in parts if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(f"{folder}: no folder of a diffusion decoder, {', '.join(missing)} missing")


def build(folder: Path, name: str) -> Any:
    """A diffusers model of class `name` on the meta device, from `folder/config.json`.

    CheckpointError when the config is of another class, has keys that this class lacks, or cannot be built.
    """
    path, kind = folder / "config.json", getattr(diffusers(), name)
    config = read_json(path)
    if config.get("_class_name") != name:
        raise CheckpointError(f"{path}: _class_name is {config.get('_class_name')!r}; expected {name!r}")
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(plain) - set(inspect.signature(kind.__init__).parameters))
    if unknown:
        raise CheckpointError(f"{path}: {name} has no {', '.join(unknown)}")
    try:
        with torch.device("meta"):
            return kind.from_config(plain).eval()
    except (TypeError, ValueError, IndexError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: no {name} can be built from it: {error}") from None


def read_scheduler(folder: Path) -> Any:
    """The scheduler of `folder`. CheckpointError when diffusers has none such."""
    path = folder / "scheduler_config.json"
    config = read_json(path)
    kind: Any = getattr(diffusers(), str(config.get("_class_name")), None)
    if not hasattr(kind, "set_timesteps"):
        raise CheckpointError(f"{path}: {config.get('_class_name')!r} is no scheduler of diffusers")
    return kind.from_config({key: value for key, value in config.items() if key != "_class_name"})


def scheduler_like(scheduler: Any, name: str) -> Any:
    """A scheduler of class `name` with the betas and the rest of another. InputError when it is none that fits.

    What the other's config does not say is as in all of Stable Diffusion's: latents are not clipped, and the last step
    ends at the first beta; some classes have other defaults.
    """
    library = diffusers()
    known = {kind.name for kind in library.schedulers.KarrasDiffusionSchedulers} - set(OWN_NOISE)
    # one of them takes no betas, and so nothing of the folder's
    names = {name for name in known if "beta_start" in inspect.signature(getattr(library, name).__init__).parameters}
    if name not in names:
        raise InputError(f"scheduler {name!r} is not known; allowed are {', '.join(sorted(names))}")
    try:
        return getattr(library, name).from_config({"clip_sample": False, "set_alpha_to_one": False, **scheduler.config})
    except ImportError as error:
        raise InputError(f"scheduler {name}: {' '.join(str(error).split())}") from None


def survey(folder: Path, expected: Mapping[str, Tensor] | None = None) -> Weights:
    """The weights of a part, unread; CheckpointError, listing names, unless they are `expected` in name and shape."""
    weights = Weights.survey(folder, WEIGHTS)
    if expected is not None:
        weights.require(expected)
    return weights


def some(weights: Weights, names: Iterable[str]) -> Weights:
    """Those of these names."""
    return replace(weights, tensors={name: weights.tensors[name] for name in names})


def load(module: Any, weights: Weights, dtype: torch.dtype, device: torch.device) -> Any:
    """Give a module on the meta device its weights, which may be some of `weights`, ready for inference."""
    fill(module, some(weights, module.state_dict()).read(dtype, device))
    return module.requires_grad_(False)


def fingerprint(*parts: str | Mapping[str, Any]) -> str:
    """One hash of hashes and configs."""
    text = json.dumps([part if isinstance(part, str) else dict(part) for part in parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
