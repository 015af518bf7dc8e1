"""A model as a folder: `config.json`, `model*.safetensors`, `vision_tokenizer*.safetensors`, `tokenizer.json`."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from illume_fast.model.generation_config import MODEL_TYPE, CheckpointConfig
from illume_fast.model.illume import ReadsPictures
from illume_fast.model.kinds import AnyConfig, AnyTokenizer, kind_of, parse_config
from illume_fast.model.official import OFFICIAL_TYPE, is_official, official_config
from illume_fast.model.strict import ConfigError
from illume_fast.model.tensor_files import (
    CheckpointError,
    Staging,
    drop_old,
    fingerprint,
    read_json,
    stage_tensors,
    staging,
)
from illume_fast.model.tensor_reader import Weights, differences, fill
from illume_fast.model.vision_config import DualViTokConfig
from illume_fast.model.vision_folder import CONFIG, VISION, load_vision_tokenizer, read_vision_config, survey_vision

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "build",
    "load_checkpoint",
    "load_vision_tokenizer",
    "read_config",
    "resolve",
    "save_checkpoint",
    "text_tokenizer",
]

MODEL = "model"
TOKENIZER, OLDER_TOKENIZER = "tokenizer.json", ("vocab.json", "merges.txt", "added_tokens.json")
DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
_CODEBOOKS = ("frozen_codebook", "code_transform.weight", "quantizer.codebook", "quantizer.counts", "quantizer.sums")
_SHARD_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder, its modules in evaluation mode.

    `vision_tokenizer` is None where there is none: such a model reads pictures and answers. `tokenizer` is the path of
    `tokenizer.json`, or of the `vocab.json` of a published folder that has no such file.
    """

    config: AnyConfig
    model: ReadsPictures
    vision_tokenizer: AnyTokenizer | None
    tokenizer: Path


def resolve(name: str | Path) -> Path:
    """'demo' -> the shipped model; else a folder. CheckpointError when it has no `config.json`."""
    folder = DEMO if str(name) == "demo" else Path(name)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"model {str(name)!r}: there is no {folder / CONFIG}; give 'demo' or a folder")
    return folder


def read_config(folder: str | Path, sizes: DualViTokConfig | None = None) -> AnyConfig:
    """`config.json` of a folder of ours or of a published one. CheckpointError naming the key that is wrong.

    `sizes`, those of the vision tokenizer that goes with it, serve where a published config says none.
    """
    path = Path(folder) / CONFIG
    values = read_json(path)
    try:
        if is_official(values):
            return official_config(Path(folder), sizes)
        if (kind := values.get("model_type", MODEL_TYPE)) != MODEL_TYPE and "model" not in values:
            raise ConfigError(f"model_type {kind!r} is not supported; allowed are {MODEL_TYPE!r}, {OFFICIAL_TYPE!r}")
        return parse_config(values)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def build(config: AnyConfig, device: torch.device | str = "meta") -> tuple[ReadsPictures, AnyTokenizer]:
    """Both modules with fresh weights, or with none on the meta device."""
    kind = kind_of(config)
    with torch.device(device):
        return kind.model(config.model), kind.vision_tokenizer(config.vision_tokenizer)


def load_checkpoint(
    name: str | Path,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    vision_dtype: torch.dtype | None = torch.float32,
    *,
    vision_tokenizer: str | Path | None = None,
) -> Checkpoint:
    """Load a folder of ours (or 'demo'), or that of a published language model.

    `dtype` is the language model's (None: as stored); the tokenizer's codes want float32. `vision_tokenizer` is the
    folder of the tokenizer for a model that comes without one.

    CheckpointError, listing names, for every tensor that is missing, unknown, misshapen or not finite; all but the last
    are found before any weight is read.
    """
    folder = resolve(name)
    config, home = _describe(folder, vision_tokenizer)
    text = text_tokenizer(folder)
    model, vision = build(config)
    weights = Weights.survey(folder, MODEL, config.fingerprint)
    weights.require(model.state_dict(), model.repeats)
    codes = None if home is None else survey_vision(*home, vision)
    fill(model.eval(), weights.read(dtype, device))
    model.to(device)  # tables that are no part of the weights
    if codes is not None:
        fill(vision.eval(), codes.read(vision_dtype, device))
        vision.to(device)
    marks = dict.fromkeys(part.identity() for part in (weights, codes) if part is not None)
    config = replace(config, fingerprint=_joined(*marks))
    return Checkpoint(config, model, vision if codes is not None else None, text)


def save_checkpoint(
    folder: str | Path,
    config: AnyConfig,
    model: nn.Module,
    vision_tokenizer: nn.Module | None,
    tokenizer_json: str,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = _SHARD_BYTES,
    last: Callable[[Staging], None] = lambda stage: None,
) -> None:
    """Write a folder; what it held before stays whole until everything new is on disk.

    `dtype` rounds the weights first (None keeps them; codebooks are never rounded). `last` may add files to those that
    are about to appear. CheckpointError when a module does
    not match the config, holds NaN, or the folder cannot be written.
    """
    folder = Path(folder)
    given = {MODEL: model} if vision_tokenizer is None else {MODEL: model, VISION: vision_tokenizer}
    parts = {stem: _weights(module, dtype) for stem, module in given.items()}
    for stem, module in zip(parts, build(config), strict=False):
        _require_same(stem, module.state_dict(), parts[stem])
    mark = fingerprint(parts)
    config = replace(config, fingerprint=mark, has_vision_tokenizer=vision_tokenizer is not None)
    with staging(folder) as stage:
        names = [n for stem in parts for n in stage_tensors(stage, stem, parts[stem], mark, max_shard_bytes)]
        stage.write_text(TOKENIZER, tokenizer_json)
        stage.write_text(CONFIG, json.dumps(config.to_dict(), indent=1))
        last(stage)
    drop_old(folder, (MODEL, VISION), names)


def text_tokenizer(folder: Path) -> Path:
    """`tokenizer.json` or, in older published folders, `vocab.json` with its companions. CheckpointError if absent."""
    if (folder / TOKENIZER).is_file():
        return folder / TOKENIZER
    if all((folder / name).is_file() for name in OLDER_TOKENIZER):
        return folder / OLDER_TOKENIZER[0]
    raise CheckpointError(f"{folder}: there is no {TOKENIZER}, nor {', '.join(OLDER_TOKENIZER)} in its place")


def _describe(folder: Path, other: str | Path | None) -> tuple[AnyConfig, tuple[Path, str] | None]:
    """The config, and the folder and mark of its vision tokenizer: that of the model's folder, of `other` or None."""
    if other is None:
        config = read_config(folder)
        return config, (folder, config.fingerprint) if config.has_vision_tokenizer else None
    given = read_vision_config(other)
    config = read_config(folder, given.vision_tokenizer)
    if config.has_vision_tokenizer:
        raise CheckpointError(f"{folder}: has a vision tokenizer of its own; leave out vision_tokenizer")
    if not isinstance(config, CheckpointConfig):
        raise CheckpointError(f"{folder}: this kind of model takes no vision tokenizer of another folder")
    try:
        config = replace(config, vision_tokenizer=given.vision_tokenizer, has_vision_tokenizer=True)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {other} does not go with it: {error}") from None
    return config, (Path(other), given.fingerprint)


def _joined(first: str, *others: str) -> str:
    """One mark for a model and a tokenizer of different origins."""
    return hashlib.blake2b(" ".join((first, *others)).encode(), digest_size=16).hexdigest() if others else first


def _weights(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    def rounded(name: str, tensor: Tensor) -> Tensor:
        exact = dtype is None or name.endswith(_CODEBOOKS)
        return tensor.detach() if exact else tensor.detach().to(dtype)

    return {name: rounded(name, tensor) for name, tensor in module.state_dict().items()}


def _require_same(stem: str, expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    if problems := differences(expected, {name: tensor.shape for name, tensor in given.items()}):
        raise CheckpointError(f"{stem}: the weights do not match the config: {'; '.join(problems)}")
