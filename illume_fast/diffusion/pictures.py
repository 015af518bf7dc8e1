"""Codes of pictures to pixels through a diffusion decoder, in the place of the tokenizer's own decoder."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.diffusion.decoder import LatentDecoder
from illume_fast.diffusion.sd import SdDecoder
from illume_fast.diffusion.sdxl import SdxlDecoder
from illume_fast.diffusion.settings import DiffusionSettings
from illume_fast.diffusion.work import Work
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.model.vision_folder import require_vision_tokenizer


class DiffusionPictures:
    """Decodes pictures through `decoder`, which says what their noise is."""

    def __init__(self, decoder: LatentDecoder, settings: DiffusionSettings | None = None) -> None:
        """InputError for settings that no picture can be made with."""
        self.decoder, self.settings = decoder, settings or DiffusionSettings()
        decoder.check(self.settings)

    def check(self) -> None:
        """Raise what would keep it from making any picture."""

    def output(self, size: Size) -> Size:
        """Height and width of a picture whose codes are of `size`."""
        raise NotImplementedError

    def conditions(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes of pictures of one size -> what the decoder reads [N, ...]."""
        raise NotImplementedError

    def together(self, size: Size) -> int:
        """Pictures in a group whose codes are of `size` (height, width)."""
        return self.decoder.together(self.output(size))

    def start(self, codes: Sequence[ImageCodes], seeds: Sequence[int]) -> tuple[Tensor, Work]:
        """Begin a group of at most `together` pictures: (uint8 [N, 3, H, W] on the CPU, the work that fills it)."""
        return self.decoder.start(self.conditions(codes), seeds, self.settings)

    def record(self) -> dict[str, Any]:
        """What a picture depends on beside its codes and seed."""
        settings, dtype = self.settings, str(self.decoder.dtype).removeprefix("torch.")
        made_by = (self.decoder.fingerprint, settings.scheduler, None if dtype == "float32" else dtype)
        return {
            "decoder": " ".join(part for part in made_by if part),
            "diffusion_steps": settings.steps,
            "diffusion_guidance": settings.guidance,
        }


class SdxlPictures(DiffusionPictures):
    """Decodes pictures of ILLUME+ at twice the size of their codes' pictures.

    Vectors of codes are merged in float32 on the tokenizer's device.
    """

    def __init__(
        self, tokenizer: DualViTok | None, decoder: SdxlDecoder, settings: DiffusionSettings | None = None
    ) -> None:
        super().__init__(decoder, settings)
        self._tokenizer = tokenizer

    def check(self) -> None:
        """CheckpointError where the model was loaded without a vision tokenizer."""
        require_vision_tokenizer(self._tokenizer)

    def output(self, size: Size) -> Size:
        """Twice `size`."""
        return 2 * size[0], 2 * size[1]

    @torch.no_grad()
    def conditions(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes of pictures of one size -> merged vectors, float32 [N, 2z, p, q]."""
        tokenizer = require_vision_tokenizer(self._tokenizer)
        device = tokenizer.semantic_quantizer.frozen_codebook.device
        semantic, pixel = (torch.stack(level).to(device) for level in zip(*(c.levels for c in codes), strict=True))
        return tokenizer.merge(
            tokenizer.semantic_quantizer.indices_to_codes(semantic),
            tokenizer.pixel_quantizer.indices_to_codes(pixel),
        )


class FeatureTokenizer(Protocol):
    """A vision tokenizer whose codes stand for features."""

    def decode_features(self, ids: Tensor) -> Tensor:
        """Ids int64 [N, 16, 16] -> features [N, 256, D]."""
        ...


class SdPictures(DiffusionPictures):
    """Decodes pictures of the first ILLUME, from the features that its tokenizer rebuilds from semantic codes."""

    def __init__(
        self, tokenizer: FeatureTokenizer | None, decoder: SdDecoder, settings: DiffusionSettings | None = None
    ) -> None:
        super().__init__(decoder, settings)
        self._side = decoder.side
        self._tokenizer = tokenizer

    def check(self) -> None:
        """CheckpointError where the model was loaded without a vision tokenizer."""
        self._require()

    def output(self, size: Size) -> Size:
        """The UNet's own size, whatever `size`."""
        return self._side, self._side

    @torch.no_grad()
    def conditions(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes -> features [N, 256, D]; a picture's are made by themselves, the same in any company."""
        tokenizer, device = self._require(), self.decoder.device
        return torch.cat([tokenizer.decode_features(c.semantic[None].to(device)) for c in codes])

    def _require(self) -> FeatureTokenizer:
        if self._tokenizer is None:
            raise CheckpointError("this model was loaded without the vision tokenizer that makes features of its codes")
        return self._tokenizer
