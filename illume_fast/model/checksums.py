"""`checksums.json`: the SHA-256 of every file of a converted folder, and what it was made from."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from illume_fast.model.tensor_files import CheckpointError, Staging, listed, read_json

CHECKSUMS = "checksums.json"
_READ_AT_ONCE = 2**24

Advance = Callable[[int], None]


def nowhere(count: int) -> None:
    """Progress that nobody watches."""


def sha256(path: Path, advance: Advance = nowhere) -> str:
    """The hash of a file in hexadecimal; `advance` is told of the bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_AT_ONCE):
            digest.update(part)
            advance(len(part))
    return digest.hexdigest()


def stage_checksums(stage: Staging, source: Mapping[str, Any], advance: Advance = nowhere) -> None:
    """Stage `checksums.json` of all that was staged before; `source` says what it was made from."""
    files = {
        final.name: {"bytes": temporary.stat().st_size, "sha256": sha256(temporary, advance)}
        for temporary, final in stage.pending
    }
    stage.write_text(CHECKSUMS, json.dumps({"source": dict(source), "files": files}, indent=1))


def made_from(folder: Path) -> Mapping[str, Any] | None:
    """What the folder was converted from; None where no conversion was finished."""
    return _read(folder)["source"] if (folder / CHECKSUMS).exists() else None


def verify(folder: Path, advance: Advance = nowhere) -> int:
    """Compare every file with its checksum; the number of files.

    CheckpointError, listing names, for files that are missing or differ, and for weights that have no checksum.
    """
    files = _read(folder)["files"]
    problems = []
    if missing := [name for name in files if not (folder / name).is_file()]:
        problems.append("missing " + listed(missing))
    if extra := sorted(path.name for path in folder.glob("*.safetensors") if path.name not in files):
        problems.append("without a checksum " + listed(extra))
    if changed := [name for name in files if name not in missing and not _same(folder / name, files[name], advance)]:
        problems.append("changed or damaged " + listed(changed))
    if problems:
        raise CheckpointError(f"{folder}: {'; '.join(problems)}")
    return len(files)


def _same(path: Path, said: Mapping[str, Any], advance: Advance) -> bool:
    return path.stat().st_size == said.get("bytes") and sha256(path, advance) == said.get("sha256")


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / CHECKSUMS
    values = read_json(path)
    files, source = values.get("files"), values.get("source")
    whole = isinstance(source, dict) and isinstance(files, dict) and len(files) > 0
    if not whole or not all(_is_entry(name, said) for name, said in (files or {}).items()):
        raise CheckpointError(f"{path}: expected objects 'source' and 'files', the latter of file name to checksum")
    return values


def _is_entry(name: str, said: object) -> bool:
    return Path(name).name == name and isinstance(said, dict)
