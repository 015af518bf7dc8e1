"""Pictures while they are drawn: what is not drawn yet continues what is, ever fainter, and is shown out of focus."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.data.sequence import PartialCodes
from illume_fast.decoding import PictureDecoder

_FADES = 0.5
"""What is left, a row of codes further down, of the difference between the last code of a column and the mean."""
_FOCUS = 0.375
"""Standard deviation of the blur, in sides of a pixel code."""


def partial_pixels(codes: PartialCodes, decoder: PictureDecoder) -> Tensor:
    """A picture as far as it is drawn -> uint8 [3, H, W]; exact pixels of a whole one.

    Semantic codes come first, so a picture begins as a haze in colours that may change. What is drawn depends a little
    on what is not, through the decoder's attention and norms.
    """
    grid = codes.grid
    books = (book.cpu() for book in decoder.codebooks)
    levels = zip(codes.levels, books, grid.levels, strict=True)
    pixels = decoder.vectors_to_pixels(*(continued(book[ids], cells) for ids, book, cells in levels))
    rows, columns = grid.levels[-1]
    drawn = (torch.arange(rows * columns) < len(codes.levels[-1])).view(1, 1, rows, columns)
    if drawn.all():
        return pixels
    sharp = F.interpolate(drawn.float(), size=(grid.height, grid.width))[0].bool()
    return torch.where(sharp, pixels, blurred(pixels, _FOCUS * grid.height / rows))


def continued(vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """The first vectors of a map in raster order, [n, z], -> the whole map [rows, columns, z].

    A missing vector is the mean of those that are there, drawn towards nought as if a row of noughts were among them,
    and what the last vector above it differs from that by, halved for each row between them.
    """
    rows, columns = grid
    n, width = vectors.shape
    mean = vectors.sum(0) / (n + columns)
    place = torch.arange(rows * columns)
    above = (place - n).div(columns, rounding_mode="floor") + 1  # rows up to the last vector of the column
    source = place - above.clamp_min(0) * columns
    known = vectors.new_zeros(rows * columns, width)
    known[:n] = vectors
    there = (source >= 0)[:, None]
    difference = torch.where(there, known[source.clamp_min(0)] - mean, 0.0)
    faded = mean + difference * (_FADES ** above.clamp_min(0)).to(vectors)[:, None]
    return torch.where((place < n)[:, None], known, faded).view(rows, columns, width)


def blurred(pixels: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of uint8 [3, H, W] with `deviation` in pixels; borders are mirrored."""
    reach = min(int(3 * deviation) + 1, min(pixels.shape[-2:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pixels.float()[None], (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, weights, groups=3)
    return F.conv2d(across, weights.transpose(2, 3), groups=3)[0].round().clamp(0, 255).to(torch.uint8)
