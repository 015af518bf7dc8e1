"""The decoder of pictures as a CPU runs it: the same pictures as the modules make, whatever the tokenizer's shape."""

from dataclasses import replace

import pytest
import torch
from tiny_vision import LEVELS, tiny_vision

from illume_fast.model.cpu_decoder import CpuDecoder
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.vision_config import PixelCodecConfig

SHAPES = {
    "attention-deep": PixelCodecConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(3,)),
    "attention-everywhere": PixelCodecConfig(ch=32, ch_mult=(1, 2), num_res_blocks=2, attn_resolutions=(0, 1)),
    "patches": PixelCodecConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(), patch_size=2),
}


def tokenizer(pixel: PixelCodecConfig) -> DualViTok:
    torch.manual_seed(0)
    made = DualViTok(replace(tiny_vision(pixel)[0])).eval()
    for name, parameter in made.pixel_decoder.named_parameters():
        # norms start as ones and noughts, which would hide a scale or shift that is read from the wrong place
        if parameter.ndim == 1 or "conv_y" in name or "conv_b" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def codes(made: DualViTok, count: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    cells = (rows // 2, columns // 2), (rows, columns)
    ids = [torch.randint(0, k, (count, *cell)) for k, cell in zip(LEVELS, cells, strict=True)]
    return made.semantic_quantizer.indices_to_codes(ids[0]), made.pixel_quantizer.indices_to_codes(ids[1])


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (34, 32)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_equals_the_modules(shape, grid):
    made = tokenizer(SHAPES[shape])
    if grid[0] > 8 and made.config.pixel_decoder.factor > 4:
        grid = (6, 40)
    maps = codes(made, 2, *grid)
    expected = made.decode(*maps)
    actual = CpuDecoder(made)(*maps)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_without_packed_weights_too(monkeypatch):
    made = tokenizer(SHAPES["patches"])
    maps = codes(made, 1, 4, 4)
    packed = CpuDecoder(made)(*maps)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(CpuDecoder(made)(*maps), packed, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_in_double_the_order_of_sums_is_all_that_differs():
    made = tokenizer(SHAPES["attention-everywhere"]).double()
    maps = [m.double() for m in codes(made, 1, 4, 4)]
    torch.testing.assert_close(CpuDecoder(made)(*maps), made.decode(*maps), rtol=1e-5, atol=1e-6)
