"""Pictures that are given, as features that the model reads."""

import hashlib
from collections import OrderedDict
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.data.image import ImageProcessor, pad_to
from illume_fast.data.picture import upright
from illume_fast.data.sizes import Size
from illume_fast.data.slices import SliceProcessor
from illume_fast.engine import Segment
from illume_fast.engine.weights import Weights
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.model.v1_config import SlicedTowerConfig

_PICTURES_KEPT = 64


class Eyes:
    """Reads pictures for one checkpoint; the features of the last 64 are kept."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        tower = checkpoint.config.model.vision_tower
        self._slices = SliceProcessor(tower.base, tower.most_slices) if isinstance(tower, SlicedTowerConfig) else None
        if not isinstance(tower, SlicedTowerConfig):
            self._processor = ImageProcessor(tower.factor, tower.min_pixels, tower.max_pixels)
        self._read: OrderedDict[str, Segment] = OrderedDict()
        self._weights = Weights(checkpoint.model)

    def refresh(self) -> None:
        """Forget what was read with other weights than the model has now."""
        _, changed = self._weights.look()
        if changed:
            self._read.clear()

    def understood(self, image: Image.Image, max_pixels: int | None = None) -> Segment:
        """A picture to be talked about: its own size within the tower's bounds, or the one size the model knows; in
        slices, where the model reads them.

        `max_pixels` is another upper bound of its area. InputError where it is below the model's lower one.
        """
        generation = self._checkpoint.config.generation
        picture = upright(image)
        if self._slices is not None:
            return self._segment(self._slices.within(max_pixels)(picture))
        processor = self._processor
        if len(generation.sizes) == 1:
            picture = pad_to(picture, generation.size)
        if max_pixels is not None:
            if max_pixels < processor.min_pixels:
                raise InputError(f"max_pixels must be at least {processor.min_pixels}, got {max_pixels}")
            processor = replace(processor, max_pixels=max_pixels)
        return self._segment(processor(picture))

    def framed(self, image: Image.Image, size: Size) -> Segment:
        """A picture to be changed: fitted into `size`, which the model draws, on white."""
        picture = pad_to(upright(image), size)
        return self._segment(self._processor(picture) if self._slices is None else self._slices.whole(picture))

    @torch.no_grad()
    def _segment(self, pixels: Tensor) -> Segment:
        """Features of a picture [1, 3, H, W], kept for the next request with the same one.

        Pictures are read one at a time, so that their features do not depend on the company they come in.
        """
        key = hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.contiguous().numpy().tobytes()).hexdigest()
        segment = self._read.pop(key, None)
        if segment is None:
            model = self._checkpoint.model
            segment = Segment(features=model.image_embeds([pixels.to(model.head_weight)])[0], key=key)
        self._read[key] = segment
        if len(self._read) > _PICTURES_KEPT:
            self._read.popitem(last=False)
        return segment
