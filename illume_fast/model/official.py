"""The published ILLUME+ language model's folder, described: its `config.json` as a `CheckpointConfig`.

What a published config does not say is the published preset: above all the sizes of the vision tokenizer, which lie in
a Python file of the official code. Whatever contradicts what this package computes is an error that names the key.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from illume_fast.model.config import DecoderConfig, IllumeModelConfig, ProjectorConfig, VisionTowerConfig, build_vocab
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.model.presets import published_generation
from illume_fast.model.strict import ConfigError
from illume_fast.model.tensor_files import CheckpointError, listed, read_json
from illume_fast.model.vision_config import DualViTokConfig
from illume_fast.model.vocab import VocabConfig

OFFICIAL_TYPE = "illume_qwen2"
TEXT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# pieces of a model that the official code lays over the weights of the folder
_OVERLAYS = ("mm_projector.bin", "trainables.bin", "non_lora_trainables.bin")


def is_official(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a published language model."""
    return values.get("model_type") == OFFICIAL_TYPE


def official_config(folder: Path, sizes: DualViTokConfig | None = None) -> CheckpointConfig:
    """Describe the folder of a published language model; no weights are read. ValueError naming the key that is wrong.

    `sizes` are those of the vision tokenizer that will go with it, for models of other sizes than the published.
    """
    values = read_json(folder / "config.json")
    if overlays := [name for name in _OVERLAYS if (folder / name).exists()]:
        raise CheckpointError(
            f"{folder}: {listed(overlays)} would replace weights of the model; merge them with the official code"
            " and save the whole as safetensors"
        )
    vision = _vision(values, sizes)
    model = _model(values, vision, added_tokens(folder))
    penalty = _repetition_penalty(folder / "generation_config.json")
    generation = replace(published_generation(), repetition_penalty=penalty)
    return CheckpointConfig(model, vision, generation, has_vision_tokenizer=False)


def added_tokens(folder: Path) -> dict[str, int]:
    """Id of every token that was added to the text's: by `tokenizer.json` or, in older saves, `added_tokens.json`."""
    path = folder / "tokenizer.json"
    if path.is_file():
        entries = read_json(path).get("added_tokens")
        if not isinstance(entries, list) or not all(map(_is_added, entries)):
            raise CheckpointError(f"{path}: expected a list 'added_tokens' of objects with 'content' and 'id'")
        values = {entry["content"]: entry["id"] for entry in entries}
    else:
        path = folder / "added_tokens.json"
        values = read_json(path)
    if wrong := [f"{text} ({number!r})" for text, number in values.items() if type(number) is not int]:
        raise CheckpointError(f"{path}: expected the id of a token: {listed(wrong)}")
    return values


def _is_added(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and "id" in entry


def _vision(values: Mapping[str, Any], sizes: DualViTokConfig | None) -> DualViTokConfig:
    """Sizes of the tokenizer that the tower was made from: said in the config, given, or published."""
    tower = _object(values, "mm_vision_tower")
    _require("mm_vision_tower.type", tower.get("type", "DualVisionTower"), "DualVisionTower")
    said = tower.get("vq_config")
    if isinstance(tower.get("vq_model"), Mapping):
        said = tower["vq_model"].get("config")
    if not isinstance(said, Mapping):
        # a path of the machine that trained
        return sizes or DualViTokConfig()
    return tokenizer_sizes(said, "mm_vision_tower")


def _model(values: Mapping[str, Any], vision: DualViTokConfig, added: Mapping[str, int]) -> IllumeModelConfig:
    said = _object(values, "mm_vision_tower")
    bounds = {key: said[key] for key in ("min_pixels", "max_pixels") if key in said}
    if wrong := [f"{key} {value!r}" for key, value in bounds.items() if type(value) is not int or value < 1]:
        raise ConfigError(f"mm_vision_tower: {listed(wrong)}; expected a number of pixels")
    tower = VisionTowerConfig(vision.semantic_encoder.vit, vision.pixel_encoder, **bounds)
    _require("mm_hidden_size", values.get("mm_hidden_size", list(tower.widths)), list(tower.widths))
    _require("mm_patch_merge_type", values.get("mm_patch_merge_type", "flat"), "flat")
    _require("mm_use_im_start_end", bool(values.get("mm_use_im_start_end")), False)
    aspect = values.get("image_aspect_ratio", "anyres_dualvitok")
    if "anyres_dualvitok" not in str(aspect):
        raise ConfigError(f"image_aspect_ratio is {aspect!r}; only kinds of 'anyres_dualvitok' are known")
    length = values.get("tokenizer_model_max_length", 4096)
    if type(length) is not int or length < 1:
        raise ConfigError(f"tokenizer_model_max_length is {length!r}; expected a number of tokens")
    decoder = DecoderConfig.from_hf(values)
    return IllumeModelConfig(decoder, tower, _projector(values), _vocab(values, vision, added), length)


def _projector(values: Mapping[str, Any]) -> ProjectorConfig:
    said = _object(values, "mm_projector")
    _require("mm_projector.type", said.get("type", "MixedProjector"), "MixedProjector")
    depths = []
    for part in ("projector_cfg1", "projector_cfg2"):
        one = _object(said, part) if part in said else {}
        _require(f"mm_projector.{part}.type", one.get("type", "MLPProjector"), "MLPProjector")
        depths.append(one.get("mlp_depth", ProjectorConfig().depth))
    if depths[0] != depths[1] or type(depths[0]) is not int:
        raise ConfigError(f"mm_projector: mlp_depth is {depths}; both must be the same number")
    return ProjectorConfig(depths[0])


def _vocab(values: Mapping[str, Any], vision: DualViTokConfig, added: Mapping[str, int]) -> VocabConfig:
    """The published layout behind the text's tokens. ConfigError where the tokenizer or the config has another."""
    if missing := [token for token in TEXT_TOKENS if token not in added]:
        raise ConfigError(f"the tokenizer lacks {', '.join(missing)}")
    ids = values.get("special_tokens_ids")
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise ConfigError(f"special_tokens_ids is {ids!r}; expected the seven ids of structure tokens")
    pad, im_start, im_end = (added[token] for token in TEXT_TOKENS)
    levels = vision.semantic_quantizer.codebook_size, vision.pixel_quantizer.codebook_size
    rows = values.get("vocab_size")
    vocab = build_vocab(ids[0], pad=pad, im_start=im_start, im_end=im_end, levels=levels, rows=rows)
    _require("special_tokens_ids", ids, list(vocab.structure))
    wrong = [f"{text} {added.get(text)} (expected {i})" for text, i in vocab.added_tokens() if added.get(text) != i]
    codes = {text for text, _ in vocab.added_tokens()}
    wrong += [f"{text} {i} (expected none)" for text, i in added.items() if _is_code(text) and text not in codes]
    if wrong:
        raise ConfigError(f"the tokenizer's added tokens: {listed(wrong)}")
    return vocab


def _is_code(text: str) -> bool:
    return text.startswith("<|image_level")


def _repetition_penalty(path: Path) -> float:
    if not path.exists():
        return 1.0
    penalty = read_json(path).get("repetition_penalty")
    if penalty is None:
        return 1.0
    if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0 < penalty < math.inf:
        raise CheckpointError(f"{path}: repetition_penalty is {penalty!r}; expected a number above 0")
    return float(penalty)


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key} is {found!r}; expected an object")
    return found


def _require(key: str, got: Any, allowed: Any) -> None:
    if got != allowed:
        raise ConfigError(f"{key} is {got!r}; only {allowed!r} is supported here")
