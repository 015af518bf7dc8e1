"""Turns a trained checkpoint into one to ship: generation defaults set, files kept small, a model card beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from illume_fast.data.errors import InputError
from illume_fast.data.text_tokenizer import tokenizer_json
from illume_fast.model.checkpoint import load_checkpoint, save_checkpoint
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.tensor_files import read_json, staging
from illume_fast.model.vision_folder import require_vision_tokenizer

MAX_FILE_BYTES = 16 * 2**20 - 2**16  # of tensors; the header comes on top

_CARD = """# illume_fast demo model

The ILLUME+ architecture (a dual vision tokenizer, a language model with eyes of its own, one vocabulary for words and
picture codes) at 64 x 64 pixels: {parameters:.1f} million parameters in all, stored in bfloat16. It draws, edits and
names emoji. It knows nothing else.

- **Data**: Noto Emoji (3 267 pictures, images under Apache-2.0; names from Unicode's emoji-test.txt, Unicode licence),
  splits `train` for training, `val_combo` for early stopping and for choosing guidance and temperature.
- **Training**: the four commands of `docs/training.md`, on two CPU cores.
- **Defaults**: guidance {guidance:g} for drawing, {edit_guidance:g} for editing; temperature {temperature:g}.
- **Licence**: Apache-2.0.

Scores by `illume-fast evaluate emoji` (95 % bootstrap intervals over pictures):

| split | tokenizer PSNR, dB | text-to-image retrieval@1 | editing retrieval@1 | naming, exact |
|---|---|---|---|---|
{rows}

Text-to-image looks for the named picture among 100, in `val_combo` among its family in every tone and gender; editing
among the family, the source included. Controls (another row's prompt; the source copied) are in the JSON files beside
this card. `val` holds families that were never seen, so that only the tokenizer can do well there.
"""


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """`checkpoint` is what `train mllm` wrote, `scores` what `evaluate emoji --json` wrote, `out` the folder to ship.

    `guidance`, `edit_guidance` and `temperature` become the defaults. `tokenizer`, the folder of a run of stage 2 with
    `--decoder-only`, gives its decoder in place of the checkpoint's.
    """

    checkpoint: Path
    out: Path
    guidance: float
    edit_guidance: float
    temperature: float = 1.0
    tokenizer: Path | None = None
    scores: tuple[Path, ...] = ()


def main(config: PublishConfig) -> None:
    """Write the folder and its card."""
    loaded = load_checkpoint(config.checkpoint)
    vision = require_vision_tokenizer(loaded.vision_tokenizer)
    if config.tokenizer is not None:
        _take_decoder(vision, config.tokenizer / "vision_tokenizer.safetensors")
    own = loaded.config.generation
    cooled = {name: replace(getattr(own, name), temperature=config.temperature) for name in ("semantic", "pixel")}
    generation = replace(own, guidance=config.guidance, edit_guidance=config.edit_guidance, **cooled)
    settings = replace(loaded.config, generation=generation)
    # the folder that was judged is no more once this one is there
    reports = [_of(read_json(path), config.out.name) for path in config.scores]
    parts = (loaded.model, vision)
    tokenizer = tokenizer_json(loaded.tokenizer)
    save_checkpoint(config.out, settings, *parts, tokenizer, torch.bfloat16, MAX_FILE_BYTES)
    parameters = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    rows = "\n".join(_row(report) for report in reports)
    defaults = {name: getattr(config, name) for name in ("guidance", "edit_guidance", "temperature")}
    card = _CARD.format(parameters=parameters, rows=rows, **defaults)
    with staging(config.out) as stage:
        stage.write_text("README.md", card)
        for report in reports:
            stage.write_text(f"scores_{report['settings']['split']}.json", json.dumps(report, indent=1) + "\n")
    print(f"{config.out}: {parameters:.2f} million parameters, {_bytes(config.out) / 2**20:.1f} MiB")


def _take_decoder(vision: DualViTok, path: Path) -> None:
    """Raises InputError where the file differs in what makes codes, which the language model has learnt."""
    trained = load_file(path)
    for name, tensor in vision.state_dict().items():
        if name.startswith(("pixel_decoder.", "pixel_post_quant_conv.")):
            tensor.copy_(trained[name])
        elif not torch.equal(tensor.bfloat16(), trained[name].bfloat16()):
            raise InputError(f"{path}: {name} is not that of the checkpoint; only a decoder can be exchanged")


def _of(report: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    return {**report, "settings": {**report["settings"], "model": model}}


def _row(report: Mapping[str, Any]) -> str:
    cells = [report["settings"]["split"]]
    for metric, scale in (("psnr", 1.0), ("text_to_image", 100.0), ("editing", 100.0), ("naming", 100.0)):
        cells.append(_cell(report[metric], report["intervals"][metric], scale))
    return f"| {' | '.join(cells)} |"


def _cell(value: float | None, interval: Sequence[float] | None, scale: float) -> str:
    if value is None or interval is None:
        return "-"
    low, high = (end * scale for end in interval)
    unit = " %" if scale == 100 else ""
    return f"{value * scale:.1f}{unit} ({low:.1f} to {high:.1f})"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
