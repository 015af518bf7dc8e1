"""The recorded tiny models of `generate_tiny` as a pipeline."""

import json
from pathlib import Path

from golden_mllm import mllm_config
from golden_vision import dual_vitok_config, read_weights

from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, build
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig
from illume_fast.pipeline import IllumePipeline


def golden_pipeline(language: Path, vision: Path) -> IllumePipeline:
    config = CheckpointConfig(
        mllm_config(json.loads((language / "config.json").read_text())),
        dual_vitok_config(json.loads((vision / "config.json").read_text())["vq_model"]["config"]),
        # of Qwen2.5-Instruct; the official preset alone applies it
        GenerationConfig(((256, 256),), repetition_penalty=1.05),
    )
    model, tokenizer = build(config, "cpu")
    model.load_state_dict(read_weights(language))
    tokenizer.load_state_dict(read_weights(vision))
    checkpoint = Checkpoint(config, model.eval(), tokenizer.eval(), language / "tokenizer.json")
    return IllumePipeline(checkpoint, EngineConfig(max_batch=4, cache_tokens=8192))
