"""A model as a folder: `config.json`, `model*.safetensors`, `vision_tokenizer*.safetensors`, `tokenizer.json`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from illume_fast.model.illume import ReadsPictures
from illume_fast.model.kinds import AnyConfig, AnyTokenizer, kind_of, parse_config
from illume_fast.model.tensor_files import (
    CheckpointError,
    fill,
    fingerprint,
    read_json,
    read_tensors,
    stage_tensors,
    staging,
)

__all__ = ["Checkpoint", "CheckpointError", "build", "load_checkpoint", "read_config", "resolve", "save_checkpoint"]

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
MODEL, VISION = "model", "vision_tokenizer"
DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
_SHARD_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder. Both modules are in evaluation mode; `tokenizer` is the path of `tokenizer.json`."""

    config: AnyConfig
    model: ReadsPictures
    vision_tokenizer: AnyTokenizer
    tokenizer: Path


def resolve(name: str | Path) -> Path:
    """'demo' -> the shipped model; else a folder. CheckpointError when it has no `config.json`."""
    folder = DEMO if str(name) == "demo" else Path(name)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"model {str(name)!r}: there is no {folder / CONFIG}; give 'demo' or a folder")
    return folder


def read_config(folder: str | Path) -> AnyConfig:
    """`config.json` of a folder. CheckpointError naming the key that is missing, unknown or not allowed."""
    path = Path(folder) / CONFIG
    try:
        return parse_config(read_json(path))
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
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    vision_dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Load a folder (or 'demo'). `dtype` is the language model's; the tokenizer's codes want float32.

    CheckpointError, listing names, for every tensor that is missing, unknown, misshapen or not finite.
    """
    folder = resolve(name)
    config = read_config(folder)
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder}: there is no {TOKENIZER}")
    model, vision = build(config)
    parts: tuple[tuple[nn.Module, str, torch.dtype], ...] = ((model, MODEL, dtype), (vision, VISION, vision_dtype))
    for module, stem, wanted in parts:
        tensors = read_tensors(folder, stem, module.state_dict(), config.fingerprint)
        fill(module.eval(), tensors, wanted, torch.device(device))
    return Checkpoint(config, model, vision, folder / TOKENIZER)


def save_checkpoint(
    folder: str | Path,
    config: AnyConfig,
    model: nn.Module,
    vision_tokenizer: nn.Module,
    tokenizer_json: str,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write a folder; what it held before stays whole until everything new is on disk.

    `dtype` rounds the weights first (None keeps them; codebooks are never rounded). CheckpointError when a module does
    not match the config, holds NaN, or the folder cannot be written.
    """
    folder = Path(folder)
    parts = {MODEL: _weights(model, dtype), VISION: _weights(vision_tokenizer, dtype)}
    for stem, module in zip(parts, build(config), strict=True):
        _require_same(stem, module.state_dict(), parts[stem])
    mark = fingerprint(parts)
    with staging(folder) as stage:
        names = [n for stem in parts for n in stage_tensors(stage, stem, parts[stem], mark, max_shard_bytes)]
        stage.write_text(TOKENIZER, tokenizer_json)
        stage.write_text(CONFIG, json.dumps(replace(config, fingerprint=mark).to_dict(), indent=1))
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        if old.name.startswith((MODEL, VISION)) and old.name not in names:
            old.unlink()


def _weights(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    def rounded(name: str, tensor: Tensor) -> Tensor:
        exact = dtype is None or name.endswith(("frozen_codebook", "code_transform.weight"))
        return tensor.detach() if exact else tensor.detach().to(dtype)

    return {name: rounded(name, tensor) for name, tensor in module.state_dict().items()}


def _require_same(stem: str, expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    shapes = {k: list(v.shape) for k, v in expected.items()}
    wrong = sorted({k for k in {*expected, *given} if k not in given or shapes.get(k) != list(given[k].shape)})
    if wrong:
        raise CheckpointError(f"{stem}: the weights do not match the config at {', '.join(wrong[:6])}")
