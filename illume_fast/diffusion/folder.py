"""A folder as diffusers writes it: `unet/`, `vae/`, `scheduler/`, each with its config; safetensors, read strictly."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from illume_fast.data.errors import InputError
from illume_fast.model.tensor_files import CheckpointError, read_json

WEIGHTS = "diffusion_pytorch_model"
OWN_NOISE = ("DPMSolverSDEScheduler",)
"""Schedulers that draw noise without being given a generator."""

_NAMED = 6
_SAMPLE = 4096


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
    names = {kind.name for kind in library.schedulers.KarrasDiffusionSchedulers} - set(OWN_NOISE)
    if name not in names:
        raise InputError(f"scheduler {name!r} is not known; allowed are {', '.join(sorted(names))}")
    try:
        return getattr(library, name).from_config({"clip_sample": False, "set_alpha_to_one": False, **scheduler.config})
    except ImportError as error:
        raise InputError(f"scheduler {name}: {' '.join(str(error).split())}") from None


class Weights:
    """The weights of one part: safetensors in one file, or in several and an index.

    Names and `shapes` are there before anything is read; tensors are then read one at a time, so that loading needs
    little more memory than the model itself. CheckpointError for a file that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home: dict[str, Any] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        self.shapes: dict[str, list[int]] = {}
        for path in _files(folder):
            try:
                file = safe_open(path, framework="pt")
                for name in file.keys():
                    if name in self.shapes:
                        raise CheckpointError(f"{path}: tensor {name} is stored twice")
                    part = file.get_slice(name)
                    self.shapes[name], self._home[name] = list(part.get_shape()), file
                    self._digest.update(f"{name} {part.get_dtype()} {self.shapes[name]}".encode())
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: damaged or truncated: {error}") from None

    def require(self, expected: Mapping[str, Sequence[int]]) -> None:
        """CheckpointError, listing names, unless there are exactly these tensors with exactly these shapes."""
        problems = []
        if missing := [f"{name} {list(shape)}" for name, shape in expected.items() if name not in self.shapes]:
            problems.append("missing " + _list(missing))
        if extra := [name for name in self.shapes if name not in expected]:
            problems.append("unknown " + _list(extra))
        if wrong := [
            f"{name} {self.shapes[name]} (expected {list(shape)})"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != list(shape)
        ]:
            problems.append("wrong shape " + _list(wrong))
        if problems:
            raise CheckpointError(f"{self._folder}: {'; '.join(problems)}")

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored. CheckpointError unless it is finite and floating point."""
        try:
            tensor = self._home[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._folder}: tensor {name} is damaged: {error}") from None
        if not tensor.is_floating_point():
            raise CheckpointError(f"{self._folder}: tensor {name} is {tensor.dtype}; floating point is expected")
        # a sum is NaN or infinite wherever one value is; only then look closer, since a sum may also overflow
        if not (tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all()):
            raise CheckpointError(f"{self._folder}: tensor {name} has NaN or infinite values")
        self._digest.update(tensor.flatten()[:_SAMPLE].contiguous().view(torch.uint8).numpy().data)
        return tensor

    @property
    def fingerprint(self) -> str:
        """A hash of all names, types and shapes and of the first values of each tensor read so far."""
        return self._digest.hexdigest()


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a module's weights."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, read: Callable[[str], Tensor], dtype: torch.dtype, device: torch.device) -> None:
    """Give a module on the meta device its weights, one tensor at a time."""
    module.load_state_dict({name: read(name).to(device, dtype) for name in module.state_dict()}, assign=True)
    module.requires_grad_(False)


def fingerprint(*parts: str | Mapping[str, Any]) -> str:
    """One hash of hashes and configs."""
    text = json.dumps([part if isinstance(part, str) else dict(part) for part in parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _files(folder: Path) -> list[Path]:
    whole, index = folder / f"{WEIGHTS}.safetensors", folder / f"{WEIGHTS}.safetensors.index.json"
    if whole.is_file() and index.is_file():
        raise CheckpointError(f"{folder}: has both {whole.name} and {index.name}; only one is allowed")
    if whole.is_file():
        return [whole]
    if not index.is_file():
        others = sorted(path.name for path in folder.glob(f"{WEIGHTS}*"))
        found = f"; found {', '.join(others[:_NAMED])}" if others else ""
        raise CheckpointError(f"{folder}: has neither {whole.name} nor {index.name}{found}")
    homes = read_json(index).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(v, str) for v in homes.values()):
        raise CheckpointError(f"{index}: expected an object 'weight_map' of tensor name to file name")
    names = sorted(set(homes.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index}: file {name!r} is not in {folder}")
    return [folder / name for name in names]


def _list(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
