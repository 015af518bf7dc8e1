"""A vision tokenizer alone as a folder: `config.json` and `vision_tokenizer*.safetensors`.

`illume-fast convert` makes it from the published file; the folder of a whole model will do as well.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.generation_config import FORMAT, CheckpointConfig
from illume_fast.model.strict import Config, ConfigError
from illume_fast.model.tensor_files import CheckpointError, read_json
from illume_fast.model.tensor_reader import Weights, fill
from illume_fast.model.vision_config import DualViTokConfig

CONFIG, VISION = "config.json", "vision_tokenizer"


@dataclass(frozen=True)
class VisionFolderConfig(Config):
    """`config.json` of a vision tokenizer's folder; `fingerprint` ties it to the weights saved with it."""

    vision_tokenizer: DualViTokConfig
    fingerprint: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(f"VisionFolderConfig.format: {self.format} is not known; this version reads {FORMAT}")


def read_vision_config(folder: str | Path) -> VisionFolderConfig:
    """`config.json` of a vision tokenizer's folder, or of a whole model's. CheckpointError naming what is wrong."""
    path = Path(folder) / CONFIG
    values = read_json(path)
    try:
        if "vision_tokenizer" not in values:
            raise ConfigError("describes no vision tokenizer; make its folder with: illume-fast convert FILE --out DIR")
        if "model" not in values:
            return VisionFolderConfig.from_dict(values)
        whole = CheckpointConfig.from_dict(values)
        return VisionFolderConfig(whole.vision_tokenizer, whole.fingerprint)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def survey_vision(folder: Path, mark: str, vision: nn.Module) -> Weights:
    """The tokenizer's weights in a folder, found to fit `vision`, unread. CheckpointError listing what does not."""
    weights = Weights.survey(folder, VISION, mark)
    weights.require(vision.state_dict())
    return weights


def load_vision_tokenizer(
    folder: str | Path, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> DualViTok:
    """Load a vision tokenizer in evaluation mode; its codes want float32 (None: as stored).

    CheckpointError, listing names, for every tensor that is missing, unknown, misshapen or not finite.
    """
    config = read_vision_config(folder)
    with torch.device("meta"):
        vision = DualViTok(config.vision_tokenizer)
    fill(vision.eval(), survey_vision(Path(folder), config.fingerprint, vision).read(dtype, device))
    return vision


def require_vision_tokenizer(vision: nn.Module | None) -> DualViTok:
    """The tokenizer of ILLUME+. CheckpointError, saying what to give, where a model was loaded without one or has, as
    ILLUME, one that makes no pixels."""
    if vision is None:
        raise CheckpointError(
            "this model was loaded without a vision tokenizer, which pictures are drawn and decoded with; give the"
            " folder that `illume-fast convert` makes of one as vision_tokenizer, or convert the model together with it"
        )
    if not isinstance(vision, DualViTok):
        raise CheckpointError(
            "the vision tokenizer of this model (ILLUME) makes semantic features of its codes, and no pixels: give "
            "the folder of a Stable Diffusion decoder (decoder=FOLDER, --decoder DIR), or take the codes "
            '(output_type="codes"; of a stream, decode=False)'
        )
    return vision
