"""Codes of pictures to pixels through the SDXL decoder, in the place of the tokenizer's own decoder."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.diffusion.sdxl import SdxlDecoder
from illume_fast.diffusion.settings import DiffusionSettings
from illume_fast.diffusion.work import Work
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.vision_folder import require_vision_tokenizer


class DiffusionPictures:
    """Decodes pictures of one tokenizer at twice their size; see `SdxlDecoder` for what their noise is.

    Vectors of codes are merged in float32 on the tokenizer's device.
    """

    def __init__(
        self, tokenizer: DualViTok | None, decoder: SdxlDecoder, settings: DiffusionSettings | None = None
    ) -> None:
        self.decoder, self.settings = decoder, settings or DiffusionSettings()
        self._tokenizer = tokenizer
        # made at the first picture: a pipeline that only answers needs none
        self._codebooks: tuple[Tensor, Tensor] | None = None

    def check(self) -> None:
        """CheckpointError where the model was loaded without a vision tokenizer."""
        require_vision_tokenizer(self._tokenizer)

    def together(self, size: Size) -> int:
        """Pictures of `size` (height, width of the tokens' resolution) in a group."""
        return self.decoder.together((2 * size[0], 2 * size[1]))

    def start(self, codes: Sequence[ImageCodes], seeds: Sequence[int]) -> tuple[Tensor, Work]:
        """Begin a group of at most `together` pictures: (uint8 [N, 3, 2H, 2W] on the CPU, the work that fills it)."""
        return self.decoder.start(self.code_maps(codes), seeds, self.settings)

    def record(self) -> dict[str, Any]:
        """What a picture depends on beside its codes and seed."""
        settings, dtype = self.settings, str(self.decoder.dtype).removeprefix("torch.")
        made_by = (self.decoder.fingerprint, settings.scheduler, None if dtype == "float32" else dtype)
        return {
            "decoder": " ".join(part for part in made_by if part),
            "diffusion_steps": settings.steps,
            "diffusion_guidance": settings.guidance,
        }

    @torch.no_grad()
    def code_maps(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes of pictures of one size -> what the decoder reads, float32 [N, 2z, p, q]."""
        tokenizer = require_vision_tokenizer(self._tokenizer)
        if self._codebooks is None:
            quantizers = tokenizer.semantic_quantizer, tokenizer.pixel_quantizer
            self._codebooks = quantizers[0].codebook.detach(), quantizers[1].codebook.detach()
        ids = torch.stack([c.semantic for c in codes]), torch.stack([c.pixel for c in codes])
        vectors = [F.embedding(i.to(book.device), book) for i, book in zip(ids, self._codebooks, strict=True)]
        return tokenizer.merge(*(v.movedim(-1, 1) for v in vectors))
