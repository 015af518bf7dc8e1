"""Folders in the layout of the published checkpoints, with random weights; written without the package's own writer."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import build, read_config

STRUCTURE = (
    "<start_of_image>", "<end_of_image>", "<end_of_line>", "<start_of_level0>", "<end_of_level0>",
    "<start_of_level1>", "<end_of_level1>",
)  # fmt: skip
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LEVELS = (64, 192)
WORDS = ["a red heart", "a small dog near the tree", "Generate an image of the grass", "make the sky green"]


def image_tokens(first: int, levels: tuple[int, int] = LEVELS) -> dict[str, int]:
    """The published tokens of pictures, from id `first` on."""
    sides = range(64, 1025, 64)
    texts = [*STRUCTURE, *(f"<height_{side}>" for side in sides), *(f"<width_{side}>" for side in sides)]
    texts += [f"<|image_level{level}_{i}|>" for level, count in enumerate(levels) for i in range(count)]
    return {text: first + i for i, text in enumerate(texts)}


def pixel_codec(**sizes: Any) -> dict[str, Any]:
    return {
        "ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [4], "z_channels": 32,
        "embed_dim": 32, "double_z": False, "dropout": 0.0, "in_channels": 3,
        "out_channels": 3, "use_dc_up_down_blocks": True, **sizes,
    }  # fmt: skip


def vision_sizes(levels: tuple[int, int] = LEVELS) -> dict[str, Any]:
    """The official config of a vision tokenizer with few weights."""
    vit = {
        "model": "Qwen2-VL ViT", "depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 48, "mlp_ratio": 4,
        "hidden_act": "quick_gelu", "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
    }  # fmt: skip
    codes = {"type": "SimVQ", "dim": 32, "channel_first": True, "rotation_trick": False}
    blocks = {"num_blocks": 1, "z_channels": 32, "embed_dim": 64, "attn_implementation": "sdpa"}
    return {
        "semantic_encoder": {"semantic_encoder": vit, "proj_layer": "linear", "target_mlp": "norm", **blocks},
        "semantic_quantizer": {**codes, "codebook_size": levels[0]},
        "semantic_decoder": {"proj_layer": "linear_norm", "output_channels": 48, **blocks},
        "pixel_encoder": pixel_codec(codebook_size=levels[1]),
        "pixel_quantizer": {**codes, "codebook_size": levels[1]},
        "pixel_decoder": pixel_codec(ch=64, z_channels=64, embed_dim=64, codebook_size=levels[1]),
        "pixel_drop_rate": None,
        "pixel_drop_batch_rate": 0.1,
        "pixel_noise_type": "random",
    }


def official_values(text_size: int, rows: int, levels: tuple[int, int] = LEVELS, **changes: Any) -> dict[str, Any]:
    """`config.json` of a published language model with few weights."""
    part = {"type": "MLPProjector", "mlp_depth": 2}
    return {
        "architectures": ["IllumeQwen2ForCausalLM"], "model_type": "illume_qwen2", "torch_dtype": "bfloat16",
        "vocab_size": rows, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rope_theta": 1e6,
        "rope_scaling": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "use_sliding_window": False,
        "max_position_embeddings": 4096, "eos_token_id": text_size - 1, "mm_hidden_size": [48, 32],
        "mm_patch_merge_type": "flat", "mm_use_im_start_end": False, "image_aspect_ratio": "anyres_dualvitok",
        "special_tokens_ids": list(range(text_size, text_size + 7)), "tokenizer_padding_side": "left",
        "tokenizer_model_max_length": 4096,
        "mm_vision_tower": {
            "type": "DualVisionTower", "vq_config": "configs/dualvitok.py", "vq_ckpt": "checkpoints/dualvitok",
            "min_pixels": 1024, "max_pixels": 589824, "unfreeze_mm_vision_tower": True, "tune_vit_from_layer": 16,
            "vq_model": {"type": "DualViTok", "config": vision_sizes(levels)},
        },
        "mm_projector": {"type": "MixedProjector", "projector_cfg1": part, "projector_cfg2": part},
        **changes,
    }  # fmt: skip


def with_image_tokens(tokenizer_json: str, text_size: int, levels: tuple[int, int] = LEVELS) -> str:
    """A text tokenizer with the tokens of pictures added as the official code adds them: not special."""
    values = json.loads(tokenizer_json)
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    added = [{"id": i, "content": text, **same} for text, i in image_tokens(text_size, levels).items()]
    return json.dumps({**values, "added_tokens": [*values["added_tokens"], *added]})


def split_tokenizer(tokenizer_json: str, folder: Path) -> None:
    """The same tokenizer as the three files of older saves."""
    values = json.loads(tokenizer_json)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in values["model"]["merges"]]
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    (folder / "vocab.json").write_text(json.dumps(values["model"]["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Numbered safetensors files and their index, as Hugging Face writes them."""
    names = sorted(tensors)
    home = {name: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(home.values())):
        part = {name: tensors[name].contiguous() for name in names if home[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": home}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def random_like(shapes: dict[str, Tensor], dtype: torch.dtype = torch.bfloat16, std: float = 0.05) -> dict[str, Tensor]:
    """Random weights for tensors on the meta device; norms' scales are near one."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        values = torch.empty(shape.shape, dtype=dtype).normal_(std=std, generator=generator)
        found[name] = values + 1 if "norm" in name and name.endswith(".weight") and shape.dim() == 1 else values
    return found


def describe(folder: Path, values: dict[str, Any], tokenizer_json: str) -> Path:
    """All of a folder but its weights; the tokenizer as `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "repetition_penalty": 1.05}))
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


def write_tiny_official(folder: Path, unused_rows: int = 9, **changes: Any) -> Path:
    """A whole published folder with few random weights in bfloat16; `changes` are of its config."""
    text = TextTokenizer.train(WORDS * 3, 300)
    values = official_values(text.size, text.size + len(image_tokens(0)) + unused_rows, **changes)
    describe(folder, values, with_image_tokens(text.to_json(), text.size))
    model, _ = build(read_config(folder))
    write_shards(folder, random_like(model.state_dict()), 3)
    return folder
