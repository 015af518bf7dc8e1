"""The Stable Diffusion decoder of the first ILLUME: semantic features of 256 tokens to a picture of 512 x 512.

Source: ILLUME (Wang et al., arXiv 2412.06673), which says that a Stable Diffusion model, conditioned on the features
that the feature decoder rebuilds from the codes, makes the picture. It says no more, and nothing of it is published.
Chosen here: the features are the cross-attention context of a UNet2DConditionModel in place of the text, in raster
order; they come through one linear layer where their width is another than the UNet's; guidance leads away from a
context that is learnt or, without one, zero; steps and guidance are by default those of ILLUME+'s decoder.
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.data.sizes import Size
from illume_fast.diffusion import folder as files
from illume_fast.diffusion.decoder import LatentDecoder, Parts, require_dtype
from illume_fast.diffusion.denoising import Predict
from illume_fast.diffusion.vae import load_vae
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.model.tensor_reader import Weights

TOKENS = 256
CONDITIONING = "conditioning"
_PROJECTION, _BIAS, _NOTHING = "projection.weight", "projection.bias", "unconditional"


class SdDecoder(LatentDecoder):
    """Semantic features, floating point [N, 256, D], to pictures uint8 [N, 3, 512, 512] (the UNet's own size)."""

    def __init__(self, parts: Parts, conditioning: dict[str, Tensor], pictures_together: int | None = None) -> None:
        super().__init__(parts, pictures_together)
        self._conditioning = conditioning

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        pictures_together: int | None = None,
    ) -> Self:
        """Read a folder with `unet/`, `vae/` and `scheduler/` as diffusers writes it and, if there is one,
        `conditioning/diffusion_pytorch_model.safetensors`: `projection.weight` [C, D] and `projection.bias` [C], where
        C is the UNet's cross_attention_dim, and `unconditional` [256, C]; without a projection D is C, without
        `unconditional` that is zero.

        `dtype` is the UNet's; a VAE that asks for it (`force_upcast`) stays float32. CheckpointError, naming what, for
        anything missing, unknown, misshapen or of another kind.
        """
        require_dtype(dtype)
        path, device = Path(folder), torch.device(device)
        files.require_parts(path)
        vae, vae_mark = load_vae(path / "vae", dtype, device)
        unet = files.build(path / "unet", "UNet2DConditionModel")
        _require_kind(path / "unet" / "config.json", unet.config, vae.config.latent_channels)
        weights = files.survey(path / "unet", unet.state_dict())
        files.load(unet, weights, dtype, device)
        given = _survey_conditioning(path / CONDITIONING, unet.config.cross_attention_dim)
        conditioning = {} if given is None else given.read(dtype, device)
        mark = "" if given is None else given.identity()
        scheduler = files.read_scheduler(path / "scheduler")
        mark = files.fingerprint(weights.identity(), vae_mark, mark, unet.config, scheduler.config)
        parts = Parts(unet=unet, vae=vae, scheduler=scheduler, device=device, fingerprint=mark)
        return cls(parts, conditioning, pictures_together)

    @property
    def feature_width(self) -> int:
        """D of the features."""
        projection = self._conditioning.get(_PROJECTION)
        return self.unet.config.cross_attention_dim if projection is None else projection.shape[1]

    @property
    def side(self) -> int:
        """Height and width of the pictures."""
        return self.unet.config.sample_size * self.factor

    def output_size(self, features: Tensor) -> Size:
        """Height and width of the pictures. InputError when `features` are none of this decoder."""
        shape = TOKENS, self.feature_width
        if features.dim() != 3 or tuple(features.shape[1:]) != shape or not features.is_floating_point():
            raise InputError(
                f"features must be floating point [N, {shape[0]}, {shape[1]}], got "
                f"{features.dtype} {list(features.shape)}"
            )
        return self.side, self.side

    def _predict(self, features: Tensor, guided: bool) -> Predict:
        context = features.to(self.dtype)
        if _PROJECTION in self._conditioning:
            context = F.linear(context, self._conditioning[_PROJECTION], self._conditioning[_BIAS])
        if guided:
            nothing = self._conditioning.get(_NOTHING)
            away = torch.zeros_like(context) if nothing is None else nothing.expand_as(context)
            context = torch.cat([away, context])

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            sample = latents.to(context.dtype).contiguous(memory_format=torch.channels_last)
            return self.unet(sample, time, context).sample

        return predict


def _require_kind(path: Path, config: Any, latents: int) -> None:
    for key in ("in_channels", "out_channels"):
        if config[key] != latents:
            raise CheckpointError(f"{path}: {key} is {config[key]}; expected {latents}, the channels of the VAE")
    for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if config[key] is not None:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; a decoder of features has none")
    for key in ("cross_attention_dim", "sample_size"):
        if not isinstance(config[key], int):
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; expected one number")


def _survey_conditioning(folder: Path, width: int) -> Weights | None:
    """The tensors of the conditioning, unread; None where there is no such folder."""
    if not folder.exists():
        return None
    weights = files.survey(folder)
    names = set(weights.tensors)
    if not names or names - {_PROJECTION, _BIAS, _NOTHING} or (_PROJECTION in names) != (_BIAS in names):
        raise CheckpointError(
            f"{folder}: holds {', '.join(sorted(names)) or 'nothing'}; allowed are {_PROJECTION} with {_BIAS}, and "
            f"{_NOTHING}"
        )
    features = weights.tensors[_PROJECTION].shape[-1] if _PROJECTION in names else width
    shapes = {_PROJECTION: (width, features), _BIAS: (width,), _NOTHING: (TOKENS, width)}
    weights.require({name: torch.empty(shapes[name], device="meta") for name in names})
    return weights
