"""Weights in safetensors files, written whole or not at all; `tensor_reader` reads them."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

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
        temporary.touch()
        self._mode = temporary.stat().st_mode
        self.pending.append((temporary, self.folder / name))
        return temporary

    def write_text(self, name: str, text: str) -> None:
        self.path(name).write_text(text, encoding="utf-8")

    def commit(self) -> None:
        for temporary, _ in self.pending:
            # safetensors makes files that nobody else may read, whatever the user's mask says
            temporary.chmod(self._mode)
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
    bad = [name for name, tensor in tensors.items() if not finite(tensor)]
    if bad:
        raise CheckpointError(f"{stem}: will not save NaN or infinite values, found in {listed(bad)}")
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


def drop_old(folder: Path, stems: tuple[str, ...], names: Sequence[str]) -> None:
    """Remove the weights that an earlier save of `stems` left beside the files `names`."""
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        if old.name.startswith(stems) and old.name not in names:
            old.unlink()


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


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Takes no memory, whatever the size of the tensor."""
    # the least and the largest value are NaN where any is
    return tensor.numel() == 0 or all(bool(edge.isfinite()) for edge in tensor.detach().aminmax())


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
