"""The kinds of model that a folder can hold: what its `config.json` is read as, and what is built from that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from illume_fast.model import v1_config
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.illume import IllumeModel, ReadsPictures
from illume_fast.model.illume_v1 import IllumeV1Model
from illume_fast.model.semantic_tokenizer import SemanticTokenizer
from illume_fast.model.strict import ConfigError
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.model.v1_config import IllumeV1CheckpointConfig

AnyConfig = CheckpointConfig | IllumeV1CheckpointConfig
AnyTokenizer = DualViTok | SemanticTokenizer

_KIND, _UNNAMED = "kind", "illume_plus"


@dataclass(frozen=True)
class Kind:
    """A config class, and how the language model and the vision tokenizer are made from its `model` and
    `vision_tokenizer`."""

    config: type[Any]
    model: Callable[[Any], ReadsPictures]
    vision_tokenizer: Callable[[Any], AnyTokenizer]


KINDS: dict[str, Kind] = {
    _UNNAMED: Kind(CheckpointConfig, IllumeModel, DualViTok),
    v1_config.KIND: Kind(IllumeV1CheckpointConfig, IllumeV1Model, SemanticTokenizer),
}


def parse_config(values: Mapping[str, Any]) -> AnyConfig:
    """The config in a `config.json`, by its `kind` (ILLUME+ where it names none). ConfigError for what is not known."""
    name = values.get(_KIND, _UNNAMED)
    if name not in KINDS:
        raise ConfigError(f"kind {name!r} of model is not known; allowed are {', '.join(map(repr, KINDS))}")
    return KINDS[name].config.from_dict(values)


def illume_plus(config: AnyConfig) -> CheckpointConfig:
    """The config of an ILLUME+. CheckpointError for another kind, where that alone is served."""
    if not isinstance(config, CheckpointConfig):
        raise CheckpointError(f"a model of the kind {config.kind!r}, where 'illume_plus' alone is served")
    return config


def kind_of(config: AnyConfig) -> Kind:
    """The kind whose config this is."""
    return next(kind for kind in KINDS.values() if isinstance(config, kind.config))
