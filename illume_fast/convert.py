"""Published files to folders of ours: a vision tokenizer's pickle, and a language model together with its tokenizer."""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illume_fast.data.text_tokenizer import TextTokenizer, tokenizer_json
from illume_fast.model.checkpoint import load_checkpoint, save_checkpoint
from illume_fast.model.checksums import Advance, made_from, nowhere, sha256, stage_checksums, verify
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.model.tensor_files import (
    CheckpointError,
    drop_old,
    fingerprint,
    listed,
    read_json,
    stage_tensors,
    staging,
)
from illume_fast.model.tensor_reader import Stored, Weights
from illume_fast.model.vision_config import DualViTokConfig
from illume_fast.model.vision_folder import CONFIG, VISION, VisionFolderConfig

SHARD_BYTES = 2**30
_KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def convert_tokenizer(
    source: Path, out: Path, *, ema: bool = False, sizes: DualViTokConfig | None = None, advance: Advance = nowhere
) -> bool:
    """Write a DualViTok file (`pytorch_model.bin`, .pt, .ckpt) as `config.json`, safetensors and `checksums.json`.

    Weights are those of its entry "ema" if wished, else "model" or "state_dict", else the file itself; their names and
    shapes must be those of `sizes` (default: the published). `advance` is told of bytes. Returns False, and writes
    nothing, where `out` holds the same conversion, whole.

    Raises:
        CheckpointError: the file cannot be read without pickle, is damaged or holds other tensors; or `out` holds
            something else, which is left as it is.
    """
    try:
        origin = {"name": source.name, "sha256": sha256(source, advance), "ema": ema}
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {error.strerror or error}") from None
    if _is_done(out, origin, advance):
        return False
    config = DualViTokConfig() if sizes is None else sizes
    tensors = _weights(source, _load(source), ema)
    with torch.device("meta"):
        expected = DualViTok(config).state_dict()
    found = {name: Stored(source, tuple(t.shape), _KINDS.get(t.dtype, str(t.dtype))) for name, t in tensors.items()}
    Weights(str(source), found).require(expected)
    mark = fingerprint({VISION: tensors})
    with staging(out) as stage:
        names = stage_tensors(stage, VISION, {name: tensors[name] for name in expected}, mark, SHARD_BYTES)
        stage.write_text(CONFIG, json.dumps(VisionFolderConfig(config, mark).to_dict(), indent=1))
        stage_checksums(stage, origin, advance)
    drop_old(out, (VISION,), names)
    return True


def convert_model(source: Path, out: Path, vision_tokenizer: Path, advance: Advance = nowhere) -> bool:
    """Write a published language model and a converted vision tokenizer as one folder, with `checksums.json`.

    Returns False, and writes nothing, where `out` holds the same conversion, whole. CheckpointError as
    `load_checkpoint` raises it, and where `out` holds something else.
    """
    loaded = load_checkpoint(source, None, "cpu", None, vision_tokenizer=vision_tokenizer)
    origin = {"name": source.name, "fingerprint": loaded.config.fingerprint}
    if _is_done(out, origin, advance):
        return False
    TextTokenizer.from_file(loaded.tokenizer, loaded.config.model.vocab.text_size)  # what is damaged is not passed on
    text = tokenizer_json(loaded.tokenizer)
    save_checkpoint(
        out, loaded.config, loaded.model, loaded.vision_tokenizer, text,
        max_shard_bytes=SHARD_BYTES, last=lambda stage: stage_checksums(stage, origin, advance),
    )  # fmt: skip
    return True


def read_sizes(path: Path) -> DualViTokConfig:
    """Sizes of a vision tokenizer from a JSON file, in the official code's words or in ours. CheckpointError if bad."""
    try:
        return tokenizer_sizes(read_json(path), str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _is_done(out: Path, origin: Mapping[str, Any], advance: Advance) -> bool:
    before = made_from(out)
    if before is None:
        _require_free(out)
        return False
    if {**before, "name": ""} != {**origin, "name": ""}:
        raise CheckpointError(f"{out}: holds the conversion of another {before.get('name')}; give another --out")
    try:
        verify(out, advance)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete the folder to convert again") from None
    return True


def _require_free(out: Path) -> None:
    """Nothing is written over a model. What an interrupted conversion of a tokenizer left is none."""
    path = out / CONFIG
    if path.exists() and (others := read_json(path).keys() - {field.name for field in fields(VisionFolderConfig)}):
        raise CheckpointError(
            f"{out}: holds a model already (its {CONFIG} has {listed(sorted(others))}); give another --out, or delete"
            " the folder if it is what an interrupted conversion left"
        )


def _load(path: Path) -> Any:
    try:
        # what torch saved before it used zip files cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # torch raises OSError, RuntimeError, EOFError, UnpicklingError and more for what it cannot parse
    except Exception as error:
        text = " ".join(str(error).split())
        if named := re.search(r"(?:GLOBAL|class) (\S+)", text):
            raise CheckpointError(
                f"{path}: holds more than tensors ({named[1]}), which only pickle reads, and a pickle can run anything;"
                " load it with the code that made it and save the weights alone: torch.save({'model': weights}, FILE)"
            ) from None
        raise CheckpointError(f"{path}: damaged, or not a file of tensors that torch.save made: {text}") from None


def _weights(path: Path, found: Any, ema: bool) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: expected tensors by name, got {type(found).__name__}")
    if ema and "ema" not in found:
        raise CheckpointError(f"{path}: has no entry 'ema', only {listed([str(key) for key in found])}")
    entry = next((key for key in (("ema",) if ema else ("model", "state_dict")) if key in found), None)
    values = found if entry is None else found[entry]
    if not isinstance(values, Mapping) or not values:
        raise CheckpointError(f"{path}: entry {entry!r}: expected tensors by name, got {type(values).__name__}")
    if wrong := [f"{key} ({type(v).__name__})" for key, v in values.items() if not isinstance(v, Tensor)]:
        raise CheckpointError(f"{path}: expected tensors by name, got {listed(wrong)}")
    return {str(name): tensor.detach() for name, tensor in values.items()}
