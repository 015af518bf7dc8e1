"""Picture sizes against ILLUME+'s tables and the recorded bucketing decisions."""

import json

import pytest

from illume_fast.data.sizes import (
    MAX_CROP,
    RATIOS,
    covering_size,
    cropped_fraction,
    fitting_size,
    format_sizes,
    image_grid,
    nearest_size,
)
from illume_fast.model.presets import demo
from illume_fast.model.vision_config import DualViTokConfig

# size, semantic grid, pixel grid, tokens: ILLUME+'s table of resolutions
TABLE = [
    ((256, 256), (9, 9), (16, 16), 368),
    ((512, 512), (18, 18), (32, 32), 1404),
    ((384, 512), (12, 16), (24, 32), 1002),
    ((512, 384), (16, 12), (32, 24), 1014),
    ((384, 768), (13, 26), (24, 48), 1533),
    ((768, 384), (26, 13), (48, 24), 1570),
    ((384, 576), (12, 18), (24, 36), 1122),
    ((576, 384), (18, 12), (36, 24), 1140),
    ((320, 960), (11, 33), (20, 60), 1600),
    ((960, 320), (33, 11), (60, 20), 1662),
    ((256, 1024), (9, 36), (16, 64), 1379),
    ((1024, 256), (36, 9), (64, 16), 1454),
]


@pytest.mark.parametrize("size, semantic, pixel, tokens", TABLE)
def test_published_grids(size, semantic, pixel, tokens):
    grid = image_grid(size, DualViTokConfig())
    assert (grid.levels, grid.num_tokens) == ((semantic, pixel), tokens)


def test_the_demo_grid():
    grid = image_grid((64, 64), demo().vision_tokenizer)
    assert (grid.levels, grid.num_tokens) == (((4, 4), (8, 8)), 98)


def test_other_sizes_round_down_to_cells():
    assert image_grid((160, 208), DualViTokConfig()).levels[0] == (5, 7)


def test_sizes_that_are_not_allowed():
    with pytest.raises(ValueError, match="size 96x64 is not supported; allowed are 512x512, 384x512"):
        image_grid((96, 64), DualViTokConfig(), allowed=RATIOS)
    with pytest.raises(ValueError, match="size 100x64: both sides must be multiples of 16"):
        image_grid((100, 64), DualViTokConfig())
    with pytest.raises(ValueError, match="size 0x16: both sides"):
        image_grid((0, 16), DualViTokConfig())


def test_a_picture_smaller_than_a_cell_is_scaled_up_to_one():
    assert image_grid((16, 16), DualViTokConfig()).levels == ((1, 1), (1, 1))


def test_ratios():
    assert format_sizes(RATIOS) == (
        "512x512, 384x512, 512x384, 384x768, 768x384, 384x576, 576x384, 320x960, 960x320, 256x1024, 1024x256"
    )


def test_recorded_buckets(golden):
    recorded = json.loads((golden("preproc") / "config.json").read_text())
    assert [list(size) for size in RATIOS] == recorded["ratios_hw"]
    assert len(recorded["buckets"]) >= 50
    for row in recorded["buckets"]:
        size = row["h"], row["w"]
        target = nearest_size(size)
        assert list(target) == row["pred_hw"], row
        assert list(covering_size(size, target)) == row["resize_wh"][::-1], row
        assert cropped_fraction(size, target) == pytest.approx(row["crop_fraction"]), row
        assert (cropped_fraction(size, target) <= MAX_CROP) == row["matched"], row


@pytest.mark.parametrize("target", [(64, 96), (33, 7), (512, 512)])
def test_covering_and_fitting(target):
    for height in range(1, 130, 7):
        for width in range(1, 130, 5):
            rows, columns = covering_size((height, width), target)
            assert rows >= target[0]
            assert columns >= target[1]
            assert rows == target[0] or columns == target[1]
            rows, columns = fitting_size((height, width), target)
            assert 1 <= rows <= target[0]
            assert 1 <= columns <= target[1]
