"""Weights in safetensors files: written whole or not at all, read strictly."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FINGERPRINT = "fingerprint"
_NAMED = 6


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file, what is wrong and what was expected."""


def fingerprint(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """A hash of the names, shapes and bytes of all tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for part in sorted(parts):
        for name, tensor in sorted(parts[part].items()):
            digest.update(f"{part}/{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Staging:
    """Files written beside their final names, then moved into place together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: list[tuple[Path, Path]] = []

    def path(self, name: str) -> Path:
        """Where to write what will become `folder / name`."""
        temporary = self.folder / f".{name}.tmp"
        self.pending.append((temporary, self.folder / name))
        return temporary

    def write_text(self, name: str, text: str) -> None:
        self.path(name).write_text(text, encoding="utf-8")

    def commit(self) -> None:
        for temporary, _ in self.pending:
            _sync(temporary)
        for temporary, final in self.pending:
            temporary.replace(final)
        _sync(self.folder)

    def discard(self) -> None:
        for temporary, _ in self.pending:
            temporary.unlink(missing_ok=True)


@contextmanager
def staging(folder: Path) -> Iterator[Staging]:
    """Files of `folder` that appear all at the end, in the order given, or not at all. CheckpointError on failure."""
    stage = Staging(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield stage
        stage.commit()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be written: {error}") from None
    finally:
        stage.discard()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stage_tensors(stage: Staging, stem: str, tensors: Mapping[str, Tensor], mark: str, max_bytes: int) -> list[str]:
    """Stage `stem.safetensors`, or numbered files of at most `max_bytes` each (one tensor may exceed it) and an index.

    Returns the final names, so that the caller can remove what an earlier save left.
    """
    bad = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if bad:
        raise CheckpointError(f"{stem}: will not save NaN or infinite values, found in {_list(bad)}")
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    else:
        names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, stage.path(name), metadata={FINGERPRINT: mark})
    if len(shards) > 1:
        home = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = f"{stem}.safetensors.index.json"
        stage.write_text(index, json.dumps({"metadata": {"total_size": total}, "weight_map": home}, indent=1))
        names.append(index)
    return names


def read_tensors(folder: Path, stem: str, expected: Mapping[str, Tensor], mark: str) -> dict[str, Tensor]:
    """All tensors of `stem`, exactly those of `expected` (whose shapes alone matter).

    CheckpointError, naming tensors, for missing, unknown, misshapen or non-finite ones, for a file that is damaged
    and for one that belongs to another save than `mark` ("" accepts any).
    """
    found: dict[str, Tensor] = {}
    for path in _files(folder, stem):
        for name, tensor in _read_file(path, mark).items():
            if name in found:
                raise CheckpointError(f"{path}: tensor {name} is stored twice")
            found[name] = tensor
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append("missing " + _list([f"{n} {list(expected[n].shape)}" for n in missing]))
    if extra := [name for name in found if name not in expected]:
        problems.append("unknown " + _list(extra))
    wrong = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    if wrong:
        shapes = [f"{n} {list(found[n].shape)} (expected {list(expected[n].shape)})" for n in wrong]
        problems.append("wrong shape " + _list(shapes))
    if kinds := [n for n, t in found.items() if n in expected and not t.is_floating_point()]:
        problems.append("not floating point " + _list([f"{n} ({found[n].dtype})" for n in kinds]))
    if bad := [name for name, tensor in found.items() if not _finite(tensor)]:
        problems.append("NaN or infinite values in " + _list(bad))
    if problems:
        raise CheckpointError(f"{folder / stem}.safetensors: {'; '.join(problems)}")
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
    """Give a module built on the meta device its weights."""
    module.load_state_dict({k: v.to(device=device, dtype=dtype) for k, v in tensors.items()}, assign=True)
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if left:
        raise CheckpointError(f"{type(module).__name__}: buffers {_list(left)} are not part of the weights")


def _files(folder: Path, stem: str) -> list[Path]:
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.exists() and index.exists():
        raise CheckpointError(f"{folder}: has both {whole.name} and {index.name}; only one is allowed")
    if whole.exists():
        return [whole]
    if not index.exists():
        raise CheckpointError(f"{folder}: has neither {whole.name} nor {index.name}")
    homes = read_json(index).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(v, str) for v in homes.values()):
        raise CheckpointError(f"{index}: expected an object 'weight_map' of tensor name to file name")
    names = sorted(set(homes.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise CheckpointError(f"{index}: file {name!r} is not in {folder}")
    return [folder / name for name in names]


def _read_file(path: Path, mark: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            got = (file.metadata() or {}).get(FINGERPRINT, "")
            if mark and got != mark:
                raise CheckpointError(f"{path}: belongs to another save than config.json (an interrupted save?)")
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated: {error}") from None


def read_json(path: Path) -> dict:
    """A JSON object. CheckpointError when missing, unreadable or anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _finite(tensor: Tensor) -> bool:
    # a sum is NaN or infinite wherever one value is; only then look closer, since a sum may also overflow
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _list(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
