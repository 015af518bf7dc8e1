"""The decoding half of a VAE."""

from pathlib import Path
from typing import Any

import torch

from illume_fast.diffusion import folder as files
from illume_fast.model.tensor_files import CheckpointError


def load_vae(path: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, str]:
    """(an AutoencoderKL without its encoder, the fingerprint of its weights).

    It is float32 whatever `dtype` where its config says `force_upcast`: its activations outgrow float16, and bfloat16
    is seen in smooth areas. CheckpointError, listing names, for weights that are not its.
    """
    vae = files.build(path, "AutoencoderKL")
    config = vae.config
    if config.out_channels != 3:
        raise CheckpointError(f"{path / 'config.json'}: out_channels is {config.out_channels}; pictures have 3")
    weights = files.survey(path, vae.state_dict())
    vae.encoder = vae.quant_conv = None
    files.load(vae, weights, torch.float32 if config.force_upcast else dtype, device)
    return vae, files.fingerprint(weights.identity(), config)
