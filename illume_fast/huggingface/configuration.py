"""`config.json` as transformers sees it: a wrapper around `CheckpointConfig`, which alone says what is allowed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from illume_fast.model.checkpoint import read_config
from illume_fast.model.generation_config import MODEL_TYPE, CheckpointConfig
from illume_fast.model.kinds import illume_plus
from illume_fast.model.presets import illume_plus_3b
from illume_fast.model.tensor_files import staging
from illume_fast.model.vocab import IMAGE_PLACEHOLDER


class _Shape(PretrainedConfig):
    """What transformers and its friends ask of every language model, read from `checkpoint`."""

    @property
    def checkpoint(self) -> CheckpointConfig:
        """The whole of the model's configuration."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        return self.checkpoint.model.decoder.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.checkpoint.model.decoder.hidden_size

    @property
    def intermediate_size(self) -> int:
        return self.checkpoint.model.decoder.intermediate_size

    @property
    def num_hidden_layers(self) -> int:
        return self.checkpoint.model.decoder.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        return self.checkpoint.model.decoder.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        return self.checkpoint.model.decoder.num_key_value_heads

    @property
    def head_dim(self) -> int:
        return self.checkpoint.model.decoder.head_size

    @property
    def max_position_embeddings(self) -> int:
        return self.checkpoint.model.decoder.max_position_embeddings

    @property
    def tie_word_embeddings(self) -> bool:
        return self.checkpoint.model.decoder.tie_word_embeddings

    @property
    def pad_token_id(self) -> int:
        return self.checkpoint.model.vocab.pad

    @property
    def eos_token_id(self) -> list[int]:
        return list(self.checkpoint.model.vocab.eos)

    @property
    def image_token_id(self) -> int:
        """The placeholder of a picture that is read, in `input_ids`."""
        return IMAGE_PLACEHOLDER


class IllumeConfig(_Shape):
    """The `config.json` of a folder of ours. `checkpoint` is the whole of it, and what `to_dict` gives.

    Without arguments it is ILLUME+ 3B's. ConfigError for a key that is missing, unknown or not allowed.
    """

    model_type = MODEL_TYPE

    def __init__(self, checkpoint: CheckpointConfig | Mapping[str, Any] | None = None, **rest: Any) -> None:
        said = {key: rest.pop(key) for key in CheckpointConfig.__dataclass_fields__ if key in rest}
        if checkpoint is None:
            checkpoint = said or illume_plus_3b()
        if isinstance(checkpoint, Mapping):
            checkpoint = CheckpointConfig.from_dict(checkpoint)
        self._checkpoint = checkpoint
        super().__init__(**rest)

    @property
    def checkpoint(self) -> CheckpointConfig:
        """The object of `config.json`."""
        return self._checkpoint

    def to_dict(self) -> dict[str, Any]:
        """The object of `config.json`; what transformers adds of its own (a dtype, class names) is left out."""
        return self.checkpoint.to_dict()

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: a strict reader wants every key."""
        return self.to_dict()

    def save_pretrained(self, save_directory: str | os.PathLike[Any], push_to_hub: bool = False, **rest: Any) -> None:
        """Write `config.json`, whole or not at all."""
        refuse_hub(push_to_hub, rest)
        with staging(Path(save_directory)) as stage:
            stage.write_text("config.json", json.dumps(self.to_dict(), indent=1))


class IllumeQwen2Config(_Shape):
    """The `config.json` of a published ILLUME+ language model, kept as it is.

    `checkpoint` is what it describes. A folder is needed for that, since the ids of tokens are in its tokenizer.
    """

    model_type = "illume_qwen2"

    def __init__(self, checkpoint: CheckpointConfig | None = None, **published: Any) -> None:
        self._checkpoint = checkpoint
        self.published = {key: value for key, value in published.items() if key not in _TRANSFORMERS_OWN}
        super().__init__(**{key: published[key] for key in _TRANSFORMERS_OWN if key in published})

    @property
    def checkpoint(self) -> CheckpointConfig:
        """ValueError where the config came without its folder; CheckpointError for a folder that is no such model."""
        if self._checkpoint is None:
            if not self.name_or_path:
                raise ValueError("IllumeQwen2Config: read it with from_pretrained(folder); its tokenizer is needed")
            self._checkpoint = illume_plus(read_config(self.name_or_path))
        return self._checkpoint

    def to_dict(self) -> dict[str, Any]:
        """The published object."""
        return {**self.published, "model_type": self.model_type}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same."""
        return self.to_dict()


# what transformers passes around with a config, and no part of a published one's meaning
_TRANSFORMERS_OWN = ("name_or_path", "dtype", "torch_dtype", "attn_implementation", "_commit_hash")


def refuse_hub(push_to_hub: bool, rest: Mapping[str, Any]) -> None:
    """TypeError for arguments that nobody reads; ValueError for a hub."""
    if push_to_hub:
        raise ValueError("push_to_hub=True is not supported; save to a folder and upload that")
    if rest:
        raise TypeError(f"unexpected keyword arguments {', '.join(sorted(rest))}")
