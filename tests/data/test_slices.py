"""Slices of pictures in high resolution: their grid, and that nothing of a picture is lost."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.data.slices import SliceProcessor, slice_grid

SIDES = st.integers(1, 6000)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((1, 1), (1, 1)),
        ((448, 448), (1, 1)),
        ((512, 512), (1, 1)),  # two slices have no pixels for it, and no other grid is square
        ((671, 671), (1, 1)),
        ((672, 672), (2, 2)),
        ((448, 896), (1, 2)),
        ((896, 448), (2, 1)),
        ((100, 900), (1, 2)),
        ((3000, 3000), (3, 3)),
        ((3000, 4000), (2, 3)),
        ((4000, 3000), (3, 2)),
        ((1300, 4000), (1, 3)),
        ((100, 6000), (1, 9)),
    ],
)
def test_grids(size, grid):
    assert slice_grid(size) == grid


@given(height=SIDES, width=SIDES, most=st.integers(1, 12))
def test_a_grid_is_small_enough_and_no_other_fits_better(height, width, most):
    rows, columns = slice_grid((height, width), 448, most)
    assert 1 <= rows * columns <= most
    for side, count in ((height, rows), (width, columns)):
        assert count == 1 or count <= side / 448 + 0.5
    off = abs(math.log(width * rows / (height * columns)))
    for r in range(1, min(most, rows) + 1):
        for c in range(1, min(most // r, columns) + 1):
            assert off <= abs(math.log(width * r / (height * c))) + 1e-8


@given(height=SIDES, width=SIDES)
def test_turning_a_picture_turns_its_grid(height, width):
    rows, columns = slice_grid((height, width))
    off = abs(math.log(width * rows / (height * columns)))
    turned = slice_grid((width, height))
    assert turned[0] * turned[1] == rows * columns
    assert math.isclose(off, abs(math.log(height * turned[0] / (width * turned[1]))), abs_tol=1e-8)


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_pictures_become_whole_slices(height, width):
    processor = SliceProcessor(32, 9)
    image = Image.new("RGB", (width, height), (255, 0, 0))
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InputError, match="too long; at most 200:1"):
            processor(image)
        return
    rows, columns = slice_grid((height, width), 32, 9)
    pixels = processor(image)
    assert pixels.shape == (1, 3, 32 * rows, 32 * columns)
    assert torch.equal(pixels[0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
    assert processor.whole(image).shape == (1, 3, 32, 32)


def test_an_area_limits_the_slices():
    processor, image = SliceProcessor(32, 9), Image.new("RGB", (96, 96))
    assert processor(image).shape == (1, 3, 96, 96)
    assert processor.within(64**2)(image).shape == (1, 3, 64, 64)
    assert processor.within(1)(image).shape == (1, 3, 32, 32)
    assert processor.within(None) is processor
