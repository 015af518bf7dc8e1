"""The SDXL decoder of ILLUME+: codes to pictures of twice the tokens' resolution.

Source: ILLUME+ (Huang et al., arXiv 2504.01934) and its published pipeline over diffusers. The UNet reads the latents
beside the map of the codes, resized to them; its text context is all zero, and so it is folded away (see `folding`).
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.data.errors import InputError
from illume_fast.data.sizes import Size, format_size, format_sizes
from illume_fast.diffusion import folder as files
from illume_fast.diffusion.decoder import LatentDecoder, Parts, require_dtype
from illume_fast.diffusion.denoising import Predict
from illume_fast.diffusion.folding import fold_cross_attention
from illume_fast.diffusion.vae import load_vae
from illume_fast.model.tensor_files import CheckpointError

CODE_PIXELS = 16
"""Pixels of the tokens' resolution on a side of a code."""

# (width, height) of the output; the place in this list is what the UNet is told of a picture's size
_OUTPUTS = (
    *((1024, 1024), (768, 1024), (1024, 768), (512, 2048), (2048, 512), (640, 1920), (1920, 640)),
    *((768, 1536), (1536, 768), (768, 1152), (1152, 768), (512, 512)),
)
SIZES: tuple[Size, ...] = tuple((height // 2, width // 2) for width, height in _OUTPUTS)
"""Sizes (height, width) of the tokens' pictures that can be decoded; the output is twice as high and as wide."""


class SdxlDecoder(LatentDecoder):
    """Maps of codes, floating point [N, C, p, q] (`DualViTok.merge` of the codes' vectors), one of `SIZES` over 16, to
    pictures uint8 [N, 3, 32p, 32q]. Guidance leads away from a map of zeros."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        code_channels: int = 64,
        pictures_together: int | None = None,
    ) -> Self:
        """Read a folder with `unet/`, `vae/` and `scheduler/`, as diffusers writes it.

        `dtype` is the UNet's; latents and scheduler stay float32, and so does a VAE that asks for it
        (`force_upcast`). Of the UNet's cross-attention and of the VAE's encoder nothing is kept.
        CheckpointError, naming what, for anything missing, unknown, misshapen or of another kind.
        """
        require_dtype(dtype)
        path, device = Path(folder), torch.device(device)
        files.require_parts(path)
        vae, vae_mark = load_vae(path / "vae", dtype, device)
        unet = files.build(path / "unet", "UNet2DConditionModel")
        _require_codes(path / "unet" / "config.json", unet.config, vae.config.latent_channels, code_channels)
        weights = files.survey(path / "unet", unet.state_dict())
        moved = fold_cross_attention(unet)
        files.load(unet, weights, dtype, device)
        _add(unet, files.some(weights, [*moved, *moved.values()]).read(torch.float32, device), moved)
        scheduler = files.read_scheduler(path / "scheduler")
        mark = files.fingerprint(weights.identity(), vae_mark, unet.config, scheduler.config)
        parts = Parts(unet=unet, vae=vae, scheduler=scheduler, device=device, fingerprint=mark)
        return cls(parts, pictures_together)

    @property
    def code_channels(self) -> int:
        """C of the maps of codes."""
        return self.unet.config.in_channels - self.unet.config.out_channels

    def _predict(self, maps: Tensor, guided: bool) -> Predict:
        rows, columns = maps.shape[-2:]
        output = 2 * CODE_PIXELS * rows, 2 * CODE_PIXELS * columns
        latent = output[0] // self.factor, output[1] // self.factor
        codes = F.interpolate(maps.float(), size=latent, mode="nearest").to(self.dtype)
        if guided:
            codes = torch.cat([torch.zeros_like(codes), codes])
        conditions = self._added(output, len(codes))

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            sample = torch.cat([latents.to(codes.dtype), codes], 1).to(memory_format=torch.channels_last)
            return self.unet(sample, time, None, added_cond_kwargs=conditions).sample

        return predict

    def _added(self, output: Size, count: int) -> dict[str, Tensor]:
        config = self.unet.config
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        place = _OUTPUTS.index((output[1], output[0]))
        ids = torch.tensor([[0, 0, 0, 0, 0, place]], dtype=self.dtype, device=self.device)
        text = torch.zeros(1, width, dtype=self.dtype, device=self.device)
        return {"text_embeds": text.expand(count, -1), "time_ids": ids.expand(count, -1)}

    def output_size(self, maps: Tensor) -> Size:
        """Size of the pictures of these maps. InputError when it is none of the table, or the maps are none."""
        if maps.dim() != 4 or not maps.is_floating_point() or maps.shape[1] != self.code_channels:
            raise InputError(
                f"maps of codes must be floating point [N, {self.code_channels}, p, q], got "
                f"{maps.dtype} {list(maps.shape)}"
            )
        size = CODE_PIXELS * maps.shape[2], CODE_PIXELS * maps.shape[3]
        if size not in SIZES:
            raise InputError(
                f"the SDXL decoder does not decode pictures of {format_size(size)}; allowed are {format_sizes(SIZES)}"
            )
        return 2 * size[0], 2 * size[1]


def _add(unet: nn.Module, biases: dict[str, Tensor], moved: dict[str, str]) -> None:
    """Let each bias of `moved` take up the other, added in float32."""
    for name, other in moved.items():
        unet.get_parameter(name).data = (biases[name] + biases[other]).to(unet.get_parameter(name).dtype)


def _require_codes(path: Path, config: Any, latents: int, codes: int) -> None:
    if config.out_channels != latents:
        raise CheckpointError(f"{path}: out_channels is {config.out_channels}, but the VAE's latents have {latents}")
    if config.in_channels != latents + codes:
        raise CheckpointError(
            f"{path}: in_channels is {config.in_channels}; expected {latents + codes}, {latents} of latents and "
            f"{codes} of codes"
        )
    if config.addition_embed_type != "text_time":
        raise CheckpointError(f"{path}: addition_embed_type is {config.addition_embed_type!r}; expected 'text_time'")
    if config.projection_class_embeddings_input_dim <= 6 * config.addition_time_embed_dim:
        raise CheckpointError(
            f"{path}: projection_class_embeddings_input_dim {config.projection_class_embeddings_input_dim} leaves no "
            f"text beside six times addition_time_embed_dim {config.addition_time_embed_dim}"
        )
