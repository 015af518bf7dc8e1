"""Which decoder makes a model's pictures: its vision tokenizer's own, or a diffusion decoder."""

from pathlib import Path
from typing import cast

import torch

from illume_fast.data.sizes import format_sizes
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
) -> Decoder | None:
    """The decoder that is wanted: "pixel", "diffusion" (the checkpoint's own), or the folder of a diffusion decoder.

    None stands for what the checkpoint's config says; where that is a diffusion decoder which is not there, nothing is
    returned, and drawing is refused by `require_decoder`: the pixel decoder never stands in unasked.
    CheckpointError where what is asked for is missing or does not fit the model.
    """
    wanted = checkpoint.config.generation.decoder if decoder is None else str(decoder)
    if wanted == PIXEL:
        return PictureDecoder(checkpoint.vision_tokenizer, torch.device(device))
    own = checkpoint.tokenizer.parent / FOLDER
    folder = own if wanted == DIFFUSION else Path(wanted)
    if not folder.is_dir():
        if decoder is None:
            return None
        raise CheckpointError(
            f"decoder {wanted!r}: there is no folder {folder}; give the folder of a diffusion decoder (with unet/, vae/"
            f" and scheduler/), or {PIXEL!r} for the vision tokenizer's own"
        )
    sizes = [size for size in checkpoint.config.generation.sizes if size not in SIZES]
    factor = checkpoint.config.vision_tokenizer.pixel_encoder.factor
    if sizes or factor != CODE_PIXELS:
        raise CheckpointError(
            f"decoder {wanted!r} does not fit this model, which draws {format_sizes(sizes) or 'its pictures'} with a"
            f" code for {factor} pixels; it decodes {format_sizes(SIZES)} with a code for {CODE_PIXELS}"
        )
    tokenizer = checkpoint.vision_tokenizer
    channels = tokenizer.config.semantic_quantizer.dim + tokenizer.config.pixel_quantizer.dim
    sdxl = SdxlDecoder.from_pretrained(folder, dtype=dtype, device=device, code_channels=channels)
    return cast(Decoder, DiffusionPictures(tokenizer, sdxl, settings))


def require_decoder(decoder: Decoder | None) -> Decoder:
    """The decoder. CheckpointError, naming what can be given, where the model was loaded without one."""
    if decoder is None:
        raise CheckpointError(
            "this model's pictures come from a diffusion decoder, which was not given: give decoder=FOLDER (with unet/,"
            f" vae/ and scheduler/), or decoder={PIXEL!r} for the vision tokenizer's own"
        )
    return decoder
