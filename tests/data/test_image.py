"""Pixels in and out, against recordings of the official preprocessing (golden case preproc)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from illume_fast.data.errors import InputError
from illume_fast.data.image import ImageProcessor, crop_to, pad_to, to_picture, to_tensor, unpad


@pytest.fixture
def recorded(golden):
    folder = golden("preproc")
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")


def same_pixels(image: Image.Image, expected: torch.Tensor) -> bool:
    return np.array_equal(np.asarray(image), expected.numpy())


def test_recorded_sizes(recorded):
    rows = recorded[0]["smart_resize"]
    assert len(rows) >= 50
    for height, width, least, most, expected in rows:
        assert list(ImageProcessor(16, least, most).size(height, width)) == expected


@pytest.mark.parametrize("i", range(3))
def test_recorded_pictures(recorded, i):
    config, inputs, outputs = recorded
    image = Image.fromarray(inputs[f"proc{i}.u8"].numpy())
    bounds = config[f"proc{i}"]
    processor = ImageProcessor(bounds["spatial_factor"], bounds["min_pixels"], bounds["max_pixels"])
    torch.testing.assert_close(processor(image), outputs[f"proc{i}.pixel_values"], rtol=0, atol=1e-6)
    target = tuple(config[f"crop{i}"]["target_hw"])
    assert same_pixels(crop_to(image, target), outputs[f"crop{i}.u8"])
    padded = pad_to(image, target)
    assert same_pixels(padded, outputs[f"pad{i}.u8"])
    assert same_pixels(unpad(padded, (image.height, image.width)), outputs[f"unpad{i}.u8"])


def test_tensor_round_trip():
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    tensor = to_tensor(to_picture(pixels))
    assert tensor.shape == (1, 3, 5, 7)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert torch.equal(((tensor[0] + 1) * 127.5).round().to(torch.uint8), pixels)


def test_tiny_and_extreme_pictures():
    assert ImageProcessor(16).size(1, 1) == (32, 32)
    assert ImageProcessor(16)(Image.new("RGB", (1, 1))).shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match="1x300 pixels is too long; at most 200:1"):
        ImageProcessor(16)(Image.new("RGB", (300, 1)))


def test_only_pixels_become_a_picture():
    with pytest.raises(ValueError, match=r"expected uint8 \[3, H, W\], got torch.float32"):
        to_picture(torch.zeros(3, 2, 2))
