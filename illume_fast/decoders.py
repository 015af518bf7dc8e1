"""Which decoder makes a model's pictures: its vision tokenizer's own, or a diffusion decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size, format_sizes
from illume_fast.decoding import Decoder, PictureDecoder
from illume_fast.diffusion import DiffusionPictures, DiffusionSettings, SdxlDecoder
from illume_fast.diffusion.sdxl import CODE_PIXELS, SIZES
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.model.tensor_files import CheckpointError

PIXEL, DIFFUSION = "pixel", "diffusion"
FOLDER = "diffusion_decoder"
"""The folder of a checkpoint that holds its diffusion decoder, where it has one."""


def open_decoder(
    checkpoint: Checkpoint,
    decoder: str | Path | None = None,
    settings: DiffusionSettings | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Decoder:
    """The decoder that is wanted: "pixel", "diffusion" (the checkpoint's own), or the folder of a diffusion decoder.

    None stands for what the checkpoint's config says; where that is a diffusion decoder which is not there, whoever
    draws is refused, and told what to give: the pixel decoder never stands in unasked. `dtype` is a UNet's.
    CheckpointError where what is asked for is missing or does not fit the model.
    """
    wanted = checkpoint.config.generation.decoder if decoder is None else str(decoder)
    if wanted == PIXEL:
        return PictureDecoder(checkpoint.vision_tokenizer, torch.device(device))
    folder = checkpoint.tokenizer.parent / FOLDER if wanted == DIFFUSION else Path(wanted)
    if not folder.is_dir():
        if decoder is None:
            return NoDecoder()
        raise CheckpointError(
            f"decoder {wanted!r}: there is no folder {folder}; give the folder of a diffusion decoder (with unet/, vae/"
            f" and scheduler/), or {PIXEL!r} for the vision tokenizer's own"
        )
    config = checkpoint.config
    sizes = [size for size in config.generation.sizes if size not in SIZES]
    factor = config.vision_tokenizer.pixel_encoder.factor
    if sizes or factor != CODE_PIXELS:
        raise CheckpointError(
            f"decoder {wanted!r} does not fit this model, which draws {format_sizes(sizes) or 'its pictures'} with a"
            f" code for {factor} pixels; it decodes {format_sizes(SIZES)} with a code for {CODE_PIXELS}"
        )
    channels = config.vision_tokenizer.semantic_quantizer.dim + config.vision_tokenizer.pixel_quantizer.dim
    sdxl = SdxlDecoder.from_pretrained(folder, dtype=dtype, device=device, code_channels=channels)
    return DiffusionPictures(checkpoint.vision_tokenizer, sdxl, settings)


class NoDecoder:
    """In the place of a diffusion decoder that was not given."""

    def check(self) -> None:
        """CheckpointError that names what can be given."""
        raise CheckpointError(
            "this model's pictures come from a diffusion decoder, which was not given: give decoder=FOLDER (with unet/,"
            f" vae/ and scheduler/), or decoder={PIXEL!r} for the vision tokenizer's own"
        )

    def together(self, size: Size) -> int:
        """One picture."""
        return 1

    def start(self, codes: Sequence[ImageCodes], seeds: Sequence[int]) -> NoReturn:
        """CheckpointError, as `check`."""
        self.check()
        raise AssertionError
