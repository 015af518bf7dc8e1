"""Weights read strictly: the headers of all files first, then the tensors one by one.

A header holds names, shapes and dtypes, so that what is wrong with many gigabytes is known before any is read. Tensors
are mapped, not read, until their bytes are used.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from illume_fast.model.tensor_files import FINGERPRINT, CheckpointError, finite, listed, read_json

_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
_TOLD_APART_BY = 1024


@dataclass(frozen=True)
class Stored:
    """What is known of a tensor before it is read: its file, shape and dtype (as safetensors calls it)."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weights:
    """The tensors of all files of one `stem` in a folder, by name."""

    origin: str
    tensors: Mapping[str, Stored]
    mark: str = ""

    @classmethod
    def survey(cls, folder: Path, stem: str, mark: str = "") -> "Weights":
        """Read every header of `stem.safetensors`, or of the files that `stem.safetensors.index.json` lists.

        CheckpointError for files that are missing, damaged, truncated, that the index does not know or describes
        otherwise, for a tensor stored twice, and for files of another save than `mark` ("" accepts any).
        """
        paths, homes = _files(folder, stem)
        found: dict[str, Stored] = {}
        for path in paths:
            for name, stored in _header(path, mark).items():
                if name in found:
                    raise CheckpointError(f"{path}: tensor {name} is stored in {found[name].path.name} as well")
                found[name] = stored
        if homes is not None:
            _compare(folder, stem, homes, found)
        return cls(f"{folder / stem}.safetensors", found, mark)

    def require(self, expected: Mapping[str, Tensor], repeats: Callable[[str], bool] = lambda name: False) -> None:
        """CheckpointError, naming tensors, unless these are `expected` in name and shape, and of floating point.

        A name for which `repeats` is true may be there and need not.
        """
        shapes = {name: stored.shape for name, stored in self.tensors.items() if not repeats(name)}
        whole = [name for name, stored in self.tensors.items() if stored.dtype not in _FLOATING]
        problems = differences(expected, shapes)
        if whole:
            problems.append("not floating point " + listed([f"{n} ({self.tensors[n].dtype})" for n in whole]))
        if problems:
            raise CheckpointError(f"{self.origin}: {'; '.join(problems)}")

    def identity(self) -> str:
        """The mark of the save, or where there is none a hash of names, shapes and the first bytes of every tensor."""
        if self.mark:
            return self.mark
        digest = hashlib.blake2b(digest_size=16)
        for name, stored in sorted(self.tensors.items()):
            digest.update(f"{name} {stored.dtype} {list(stored.shape)}".encode())
        for path, names in self._by_file():
            file = _open(path)
            for name in sorted(names):
                part = file.get_tensor(name).reshape(-1)[:_TOLD_APART_BY]
                digest.update(part.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _by_file(self) -> Iterator[tuple[Path, list[str]]]:
        for path in sorted({stored.path for stored in self.tensors.values()}):
            yield path, [name for name, stored in self.tensors.items() if stored.path == path]

    def read(self, dtype: torch.dtype | None, device: torch.device | str) -> dict[str, Tensor]:
        """All tensors, in `dtype` (None: each in its own) on `device`. CheckpointError for values that are not finite.

        What need not be changed stays a map of its file; the rest is copied one at a time, and the map let go of.
        """
        found: dict[str, Tensor] = {}
        bad: list[str] = []
        for path, names in self._by_file():
            file = _open(path)
            for name in names:
                tensor = file.get_tensor(name)
                if not finite(tensor):
                    bad.append(name)
                found[name] = tensor.to(device=device, dtype=dtype)
                if found[name] is not tensor:
                    # as long as a file is open, the pages of it that were touched count as ours
                    file = _open(path)
        if bad:
            raise CheckpointError(f"{self.origin}: NaN or infinite values in {listed(bad)}")
        return found


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Iterable[int]]) -> list[str]:
    """What is missing, unknown or of the wrong shape among `found` (name to shape), in words."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append("missing " + listed([f"{n} {list(expected[n].shape)}" for n in missing]))
    if extra := [name for name in found if name not in expected]:
        problems.append("unknown " + listed(extra))
    if wrong := [n for n in expected if n in found and tuple(found[n]) != tuple(expected[n].shape)]:
        shapes = [f"{n} {list(found[n])} (expected {list(expected[n].shape)})" for n in wrong]
        problems.append("wrong shape " + listed(shapes))
    return problems


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module built on the meta device its weights, without copying them."""
    try:
        module.load_state_dict(dict(tensors), assign=True)
    except ValueError as error:
        raise CheckpointError(f"{type(module).__name__}: {error}") from None
    if left := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        raise CheckpointError(f"{type(module).__name__}: buffers {listed(left)} are not part of the weights")


def _files(folder: Path, stem: str) -> tuple[list[Path], dict[str, str] | None]:
    """The files to read, and the index's file of every tensor, None where one file holds all."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    shards = {path.name for path in folder.glob(f"{stem}-*-of-*.safetensors")}
    if whole.exists() and (index.exists() or shards):
        raise CheckpointError(f"{folder}: has both {whole.name} and numbered files or an index; only one is allowed")
    if whole.exists():
        return [whole], None
    if not index.exists():
        raise CheckpointError(f"{folder}: has neither {whole.name} nor {index.name}")
    homes = read_json(index).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(v, str) for v in homes.values()):
        raise CheckpointError(f"{index}: expected an object 'weight_map' of tensor name to file name")
    names = sorted(set(homes.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise CheckpointError(f"{index}: file {name!r} is not in {folder}")
    if unknown := sorted(shards - set(names)):
        raise CheckpointError(f"{index}: does not know the files {listed(unknown)}, which are in {folder}")
    return [folder / name for name in names], homes


def _compare(folder: Path, stem: str, homes: Mapping[str, str], found: Mapping[str, Stored]) -> None:
    problems = []
    if lacking := [f"{name} ({homes[name]})" for name in homes if name not in found]:
        problems.append("no file holds " + listed(lacking))
    if unlisted := [f"{name} ({found[name].path.name})" for name in found if name not in homes]:
        problems.append("it does not list " + listed(unlisted))
    if moved := [n for n in homes if n in found and found[n].path.name != homes[n]]:
        problems.append("other files hold " + listed([f"{n} ({found[n].path.name})" for n in moved]))
    if problems:
        raise CheckpointError(f"{folder / stem}.safetensors.index.json: {'; '.join(problems)}")


def _header(path: Path, mark: str) -> dict[str, Stored]:
    # numpy's files are mapped for reading only, which a system allows beyond its memory
    file = _open(path, "np")
    got = (file.metadata() or {}).get(FINGERPRINT, "")
    if mark and got != mark:
        raise CheckpointError(f"{path}: belongs to another save than config.json (an interrupted save?)")
    slices = ((name, file.get_slice(name)) for name in file.keys())
    return {name: Stored(path, tuple(part.get_shape()), part.get_dtype()) for name, part in slices}


def _open(path: Path, framework: str = "pt") -> Any:
    """A file whose header was found to be sound and to fit its length. It is closed when nothing refers to it."""
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated: {error}") from None
