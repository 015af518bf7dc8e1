"""Picture sizes: their grids of tokens, and which of several sizes suits a picture best.

Sizes are (height, width) in pixels. Tables: ILLUME+ (Huang et al., arXiv 2504.01934).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from illume_fast.data.errors import InputError
from illume_fast.model.image_block import block_length
from illume_fast.model.vision_config import MAPPED_SIZES

Size = tuple[int, int]

RATIOS: tuple[Size, ...] = tuple(size for size in MAPPED_SIZES if size != (256, 256))
"""The sizes at which the published models generate and edit."""

MAX_CROP = 0.2
"""A training picture that would lose more than this part of its area to cropping fits no size."""


@dataclass(frozen=True)
class ImageGrid:
    """A picture size and the rows and columns of its tokens of each level (ILLUME+: semantic, pixel)."""

    height: int
    width: int
    levels: tuple[tuple[int, int], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens from `<start_of_image>` to `<end_of_image>`."""
        return block_length(self.levels)

    @property
    def num_codes(self) -> int:
        """Codes of all levels."""
        return sum(rows * columns for rows, columns in self.levels)


class Gridded(Protocol):
    """The configuration of a vision tokenizer or tower."""

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level for a picture of so many pixels; ValueError for a size it cannot have."""
        ...


def image_grid(size: Size, config: Gridded, allowed: Sequence[Size] | None = None) -> ImageGrid:
    """Grid of `size`. InputError, saying what is allowed, for any other size than those in `allowed`, and for one that
    the tokenizer cannot have."""
    if allowed is not None and size not in allowed:
        raise InputError(f"size {format_size(size)} is not supported; allowed are {format_sizes(allowed)}")
    try:
        return ImageGrid(*size, config.grids(*size))
    except ValueError as error:
        raise InputError(str(error)) from None


def format_size(size: Size) -> str:
    """(H, W) -> 'HxW'."""
    return f"{size[0]}x{size[1]}"


def format_sizes(sizes: Sequence[Size]) -> str:
    """A list for messages: '512x512, 384x512'."""
    return ", ".join(map(format_size, sizes))


def nearest_size(size: Size, choices: Sequence[Size] = RATIOS) -> Size:
    """The choice of closest aspect ratio (width over height); among equals, the closest in pixels."""
    height, width = size
    return min(choices, key=lambda c: (abs(width / height - c[1] / c[0]), (height - c[0]) ** 2 + (width - c[1]) ** 2))


def covering_size(size: Size, target: Size) -> Size:
    """The smallest size, near the aspect ratio of `size`, that covers `target`; one side is equal."""
    (height, width), (rows, columns) = size, target
    by_width, by_height = (int(height * columns / width), columns), (rows, int(width * rows / height))
    if by_width[0] >= rows:
        return by_width
    return by_height[0], max(by_height[1], columns)


def cropped_fraction(size: Size, target: Size) -> float:
    """The part of the area lost when a picture of `size` is scaled to cover `target` and cropped to it."""
    rows, columns = covering_size(size, target)
    return 1.0 - target[0] * target[1] / (rows * columns)


def fitting_size(size: Size, target: Size) -> Size:
    """The largest size, near the aspect ratio of `size`, that fits inside `target`; at least 1 pixel a side."""
    (height, width), (rows, columns) = size, target
    scale = min(rows / height, columns / width)
    return max(1, min(rows, int(height * scale))), max(1, min(columns, int(width * scale)))
