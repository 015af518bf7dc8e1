"""Which decoder makes a model's pictures: its vision tokenizer's own, or a diffusion decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

import torch

from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size, format_sizes
from illume_fast.decoding import Decoder, PictureDecoder
from illume_fast.diffusion import DiffusionSettings, SdDecoder, SdPictures, SdxlDecoder, SdxlPictures
from illume_fast.diffusion.pictures import FeatureTokenizer
from illume_fast.diffusion.sdxl import CODE_PIXELS, SIZES
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.model.kinds import illume_plus
from illume_fast.model.semantic_config import SemanticTokenizerConfig
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.model.vision_folder import require_vision_tokenizer

Device = torch.device | str

PIXEL, DIFFUSION = "pixel", "diffusion"
FOLDER = "diffusion_decoder"
"""The folder of a checkpoint that holds its diffusion decoder, where it has one."""


def open_decoder(
    checkpoint: Checkpoint,
    decoder: str | Path | None = None,
    settings: DiffusionSettings | None = None,
    dtype: torch.dtype = torch.float32,
    device: Device = "cpu",
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
            return NoDecoder(checkpoint)
        raise CheckpointError(
            f"decoder {wanted!r}: there is no folder {folder}; give the folder of a diffusion decoder (with unet/, vae/"
            f" and scheduler/), or {PIXEL!r} for the vision tokenizer's own"
        )
    make = _stable_diffusion if len(checkpoint.config.model.vocab.levels) == 1 else _sdxl
    return make(checkpoint, folder, settings, dtype, device)


def _sdxl(
    checkpoint: Checkpoint, folder: Path, settings: DiffusionSettings | None, dtype: torch.dtype, device: Device
) -> Decoder:
    """ILLUME+'s decoder of semantic and pixel codes."""
    config, vision = illume_plus(checkpoint.config), checkpoint.vision_tokenizer
    sizes = [size for size in config.generation.allowed_sizes if size not in SIZES]
    factor = config.vision_tokenizer.pixel_encoder.factor
    if sizes or factor != CODE_PIXELS:
        raise CheckpointError(
            f"{folder}: this decoder does not fit the model, which draws {format_sizes(sizes) or 'its pictures'} with a"
            f" code for {factor} pixels; it decodes {format_sizes(SIZES)} with a code for {CODE_PIXELS}"
        )
    channels = config.vision_tokenizer.semantic_quantizer.dim + config.vision_tokenizer.pixel_quantizer.dim
    sdxl = SdxlDecoder.from_pretrained(folder, dtype=dtype, device=device, code_channels=channels)
    return SdxlPictures(None if vision is None else require_vision_tokenizer(vision), sdxl, settings)


def _stable_diffusion(
    checkpoint: Checkpoint, folder: Path, settings: DiffusionSettings | None, dtype: torch.dtype, device: Device
) -> Decoder:
    """ILLUME's decoder of semantic codes alone."""
    decoder = SdDecoder.from_pretrained(folder, dtype=dtype, device=device)
    sizes = checkpoint.config.generation.sizes
    if any(size != (decoder.side, decoder.side) for size in sizes):
        raise CheckpointError(
            f"{folder}: this decoder makes pictures of {decoder.side}x{decoder.side}; the model draws"
            f" {format_sizes(sizes)}"
        )
    config = checkpoint.config.vision_tokenizer
    width = config.encoder.width if isinstance(config, SemanticTokenizerConfig) else None
    if decoder.feature_width != width:
        raise CheckpointError(
            f"{folder}: this decoder reads features of width {decoder.feature_width}; the model's have {width}"
        )
    # the tokenizer of such a model is one of features
    return SdPictures(cast("FeatureTokenizer | None", checkpoint.vision_tokenizer), decoder, settings)


class NoDecoder:
    """In the place of a diffusion decoder that was not given."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = checkpoint.vision_tokenizer

    def check(self) -> None:
        """CheckpointError that names what can be given."""
        # without which no decoder helps
        require_vision_tokenizer(self._tokenizer)
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
