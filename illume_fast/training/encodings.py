"""Pictures as the language model needs them, computed once: codes to write, features to read, in several variants."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.tensor_files import FINGERPRINT, fingerprint
from illume_fast.training.augment import shifted, to_float
from illume_fast.training.state import read_metadata, write_tensors


@dataclass(frozen=True, slots=True)
class Variant:
    """A picture moved by (rows, columns) pixels, perhaps mirrored."""

    rows: int = 0
    columns: int = 0
    mirrored: bool = False

    def apply(self, x: Tensor) -> Tensor:
        x = x.flip(-1) if self.mirrored else x
        return shifted(x, torch.tensor([[self.rows, self.columns]]).expand(len(x), 2))


@dataclass(frozen=True)
class Encodings:
    """Of V variants of N pictures: codes int16 [V, N, h * w] and [V, N, p * q], features bfloat16
    [V, N, h * w, D0] and [V, N, p * q, D1] (both before any quantiser)."""

    semantic_codes: Tensor
    pixel_codes: Tensor
    semantic: Tensor
    pixel: Tensor

    @property
    def variants(self) -> int:
        return len(self.semantic_codes)


@torch.inference_mode()
def encode_pictures(tokenizer: DualViTok, pixels: Tensor, variants: tuple[Variant, ...], cache: Path) -> Encodings:
    """Encodes uint8 pictures [N, 3, S, S] in every variant; reads `cache` instead if it holds just these."""
    mark = fingerprint({"tokenizer": tokenizer.state_dict(), "pictures": {str(variants): pixels}})
    if cache.exists() and read_metadata(cache).get(FINGERPRINT) == mark:
        return Encodings(**load_file(cache))
    parts: list[dict[str, Tensor]] = []
    for variant in variants:
        batches = [_encode(tokenizer, variant.apply(to_float(batch))) for batch in pixels.split(64)]
        parts.append({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})
    tensors = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(cache, tensors, {FINGERPRINT: mark})
    return Encodings(**tensors)


def _encode(tokenizer: DualViTok, x: Tensor) -> dict[str, Tensor]:
    semantic, pixel = tokenizer.semantic_encoder.model(x), tokenizer.pixel_encoder(x)
    codes = tokenizer.encode_features(semantic, pixel, tokenizer.config.grids(*x.shape[-2:])[0])
    return {
        "semantic_codes": codes[0].flatten(1).to(torch.int16),
        "pixel_codes": codes[1].flatten(1).to(torch.int16),
        "semantic": semantic.to(torch.bfloat16),
        "pixel": pixel.flatten(2).transpose(1, 2).to(torch.bfloat16),
    }
