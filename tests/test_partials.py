"""Pictures while they are drawn: what is there stays, what is missing continues it, and closer to the end is closer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from illume_fast.data.sequence import ImageCodes, encode_image, partial_codes
from illume_fast.data.sizes import ImageGrid
from illume_fast.decoding import PictureDecoder
from illume_fast.model.checkpoint import load_checkpoint
from illume_fast.partials import blurred, continued, partial_pixels

GRID = ImageGrid(64, 64, ((4, 4), (8, 8)))


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint("demo", torch.float32, "cpu")


@pytest.fixture(scope="module")
def drawn(demo):
    """A picture in the codes of the demo model: a red disc on white."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = (x**2 + y**2 < 0.6).float()
    pixels = torch.stack([torch.ones(64, 64), 1 - 1.8 * disc, 1 - 1.8 * disc])[None]
    semantic, pixel = demo.vision_tokenizer.encode(pixels)
    return ImageCodes(64, 64, (semantic[0], pixel[0]))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    error = float((a.double() - b.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def test_a_picture_gets_closer_until_it_is_the_finished_one(demo, drawn):
    decoder = PictureDecoder(demo.vision_tokenizer, torch.device("cpu"))
    finished = decoder.decode([drawn])[0]
    ids = encode_image(drawn, demo.config.model.vocab)
    closeness, fractions = [], []
    for length in (2, 14, 30, 62, 78, len(ids)):
        codes = partial_codes(ids[:length], GRID, demo.config.model.vocab)
        pixels = partial_pixels(codes, decoder)
        assert (pixels.shape, pixels.dtype) == ((3, 64, 64), torch.uint8)
        closeness.append(psnr(pixels, finished))
        fractions.append(codes.fraction)
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert closeness[0] < closeness[3] < closeness[4] < closeness[5] == math.inf
    assert closeness[4] > 13, closeness


def test_what_is_missing_is_out_of_focus(demo, drawn):
    decoder = PictureDecoder(demo.vision_tokenizer, torch.device("cpu"))
    vocab = demo.config.model.vocab
    part = partial_pixels(partial_codes(encode_image(drawn, vocab)[:60], GRID, vocab), decoder).float()
    rough = [(half[:, :, 1:] - half[:, :, :-1]).abs().mean() for half in (part[:, 8:24], part[:, 40:56])]
    assert rough[1] < 0.5 * rough[0]


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    share=st.floats(0, 1),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_drawn_vectors_stay_and_missing_ones_lie_among_them(rows, columns, share, width, seed):
    n = int(share * rows * columns)
    vectors = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    whole = continued(vectors, (rows, columns))
    assert whole.shape == (rows, columns, width)
    flat = whole.flatten(0, 1)
    assert torch.equal(flat[:n], vectors)
    among = torch.cat([vectors, torch.zeros(1, width)])
    assert (flat <= among.amax(0) + 1e-5).all()
    assert (flat >= among.amin(0) - 1e-5).all()


def test_a_column_fades_into_the_mean():
    vectors = torch.tensor([[8.0], [0.0], [0.0], [0.0]])  # two rows of two, then two that are missing
    mean = 8 / 6
    expected = [[8.0, 0.0], [0.0, 0.0], [mean / 2] * 2, [mean * 3 / 4] * 2]
    torch.testing.assert_close(continued(vectors, (4, 2))[..., 0], torch.tensor(expected))
    # within a row: the code above counts one row for the missing one, none for those that are there
    part = continued(torch.tensor([[4.0], [8.0], [2.0]]), (2, 2))[..., 0]
    mean = 14 / 5
    torch.testing.assert_close(part, torch.tensor([[4.0, 8.0], [2.0, mean + (8 - mean) / 2]]))


def test_a_blur_keeps_flat_colour_and_small_pictures():
    flat = torch.full((3, 8, 5), 200, dtype=torch.uint8)
    assert torch.equal(blurred(flat, 3.0), flat)
    edge = torch.zeros(3, 16, 16, dtype=torch.uint8)
    edge[:, :, 8:] = 255
    soft = blurred(edge, 2.0)[0, 8].int()
    assert (soft.diff() >= 0).all()
    assert soft.diff().max() < 80
