"""Folders of tiny diffusion decoders with random weights, as diffusers writes them."""

from pathlib import Path

import torch

CODES = 12
"""Channels of the maps of codes."""

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def tiny_vae(**changes):
    """A latent for 16 pixels, not 8, which quarters the work."""
    from diffusers import AutoencoderKL

    blocks = 5
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": (4, 4, 4, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    }
    return AutoencoderKL(**{**config, **changes})


def tiny_unet(**changes):
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 32,
        "in_channels": 4 + CODES,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 24,
        "transformer_layers_per_block": 1,
        "use_linear_projection": True,
        "norm_num_groups": 4,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 20 + 6 * 4,
    }
    return UNet2DConditionModel(**{**config, **changes})


def tiny_sd_unet(**changes):
    plain = {
        "in_channels": 4,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "projection_class_embeddings_input_dim": None,
    }
    return tiny_unet(**{**plain, **changes})


def save(folder: Path, unet, vae=None, scheduler=None, seed: int = 0) -> Path:
    """A folder of these parts, all biases and scales random, too."""
    from diffusers import EulerDiscreteScheduler

    generator = torch.Generator().manual_seed(seed)
    vae = vae or tiny_vae()
    for model in (unet, vae):
        for name, tensor in model.named_parameters():
            scale = 0.1 if tensor.dim() < 2 else tensor[0].numel() ** -0.5
            drawn = scale * torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(1 + drawn if "norm" in name and name.endswith("weight") else drawn)
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    (scheduler or EulerDiscreteScheduler(**_BETAS)).save_pretrained(folder / "scheduler")
    return folder
