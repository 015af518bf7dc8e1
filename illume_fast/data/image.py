"""Pictures to tensors, and into and out of the frames of given sizes.

Preprocessing follows ILLUME+ (Huang et al., arXiv 2504.01934): Pillow's filters, sides in multiples of the encoder's
stride, values in [-1, 1].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.data.sizes import Size, covering_size, fitting_size

MAX_ASPECT = 200
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ImageProcessor:
    """Scales a picture so that its sides are multiples of `factor` and its area lies within bounds, then normalises."""

    factor: int = 16
    min_pixels: int = 32**2
    max_pixels: int = 1024**2

    def size(self, height: int, width: int) -> Size:
        """Size to which a picture of `height` x `width` pixels is scaled."""
        f = self.factor
        rows, columns = round(height / f) * f, round(width / f) * f
        if rows * columns > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            rows, columns = math.floor(height / scale / f) * f, math.floor(width / scale / f) * f
        elif rows * columns < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            rows, columns = math.ceil(height * scale / f) * f, math.ceil(width * scale / f) * f
        return max(f, rows), max(f, columns)

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture -> float32 [1, 3, H, W] in [-1, 1]. InputError when one side is far longer than the other."""
        require_aspect(image)
        rows, columns = self.size(image.height, image.width)
        return to_tensor(image.resize((columns, rows), Image.Resampling.BICUBIC))


def require_aspect(image: Image.Image) -> None:
    """InputError when one side is more than `MAX_ASPECT` times as long as the other."""
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise InputError(
            f"a picture of {image.height}x{image.width} pixels is too long; at most {MAX_ASPECT}:1 is allowed"
        )


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> float32 [1, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return (pixels.float() / 255 - 0.5) / 0.5


def to_picture(pixels: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> RGB picture."""
    if pixels.dtype != torch.uint8 or pixels.dim() != 3 or pixels.shape[0] != 3:
        raise ValueError(f"expected uint8 [3, H, W], got {pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def crop_to(image: Image.Image, target: Size) -> Image.Image:
    """Scale to cover `target` (Lanczos) and cut out the middle."""
    rows, columns = covering_size((image.height, image.width), target)
    image = image.resize((columns, rows), Image.Resampling.LANCZOS)
    top, left = (rows - target[0]) // 2, (columns - target[1]) // 2
    return image.crop((left, top, left + target[1], top + target[0]))


def pad_to(image: Image.Image, target: Size) -> Image.Image:
    """Scale to fit inside `target` (Lanczos) and centre on white."""
    rows, columns = fitting_size((image.height, image.width), target)
    top, left = (target[0] - rows) // 2, (target[1] - columns) // 2
    canvas = Image.new("RGB", (target[1], target[0]), _WHITE)
    canvas.paste(image.resize((columns, rows), Image.Resampling.LANCZOS), (left, top))
    return canvas


def unpad(image: Image.Image, original: Size) -> Image.Image:
    """Undo `pad_to` on its result (edited or not): cut the padding off and scale (Lanczos) to the original size."""
    rows, columns = fitting_size(original, (image.height, image.width))
    top, left = (image.height - rows) // 2, (image.width - columns) // 2
    inner = image.crop((left, top, left + columns, top + rows))
    return inner.resize((original[1], original[0]), Image.Resampling.LANCZOS)
