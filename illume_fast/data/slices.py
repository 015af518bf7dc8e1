"""Pictures in high resolution, for a model that reads them in squares of one size."""

import math
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from illume_fast.data.image import require_aspect, to_tensor
from illume_fast.data.sizes import Size


def slice_grid(size: Size, base: int = 448, most: int = 9) -> tuple[int, int]:
    """Rows and columns of squares of `base` pixels that a picture of `size` is brought to, `most` at most together.

    Along a side there are no more than it has pixels for (rounded, at least one), so that little is scaled up. Of
    these grids the one of the aspect ratio nearest to the picture's is taken, by the ratio of ratios; of equals the
    largest. As LLaVA-NeXT and InternVL do it, ILLUME's paper says no more than the number of slices.
    """
    height, width = size
    limits = [min(most, max(1, math.floor(side / base + 0.5))) for side in size]
    grids = [(r, c) for r in range(1, limits[0] + 1) for c in range(1, limits[1] + 1) if r * c <= most]
    return min(grids, key=lambda g: (round(abs(math.log(width * g[0] / (height * g[1]))), 9), -g[0] * g[1]))


@dataclass(frozen=True)
class SliceProcessor:
    """Scales a picture (bicubic) to whole slices, and normalises."""

    base: int = 448
    most: int = 9

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture -> float32 [1, 3, rows * base, columns * base] in [-1, 1], stretched a little where its aspect
        ratio is between those of two grids. InputError when one side is far longer than the other."""
        require_aspect(image)
        rows, columns = slice_grid((image.height, image.width), self.base, self.most)
        return self._scaled(image, (rows * self.base, columns * self.base))

    def within(self, max_pixels: int | None) -> "SliceProcessor":
        """The same with no more slices than `max_pixels` can hold, but one at least (None: as it is)."""
        return self if max_pixels is None else replace(self, most=max(1, min(self.most, max_pixels // self.base**2)))

    def whole(self, image: Image.Image) -> Tensor:
        """RGB picture -> float32 [1, 3, base, base] in [-1, 1]: one slice, whatever its size."""
        return self._scaled(image, (self.base, self.base))

    def _scaled(self, image: Image.Image, size: Size) -> Tensor:
        return to_tensor(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))
