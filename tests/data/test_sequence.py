"""Blocks of image tokens: ids from codes and back, strictly; and where each embedding comes from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from illume_fast.data.sequence import (
    ImageCodes,
    decode_image,
    encode_image,
    expanded_length,
    partial_codes,
    position_map,
)
from illume_fast.data.sizes import ImageGrid, image_grid
from illume_fast.model.config import build_vocab
from illume_fast.model.vision_config import DualViTokConfig
from illume_fast.model.vocab import IMAGE_PLACEHOLDER

VOCAB = build_vocab(20, pad=17, im_start=18, im_end=19, levels=(8, 24), tag_pixels=(64,))
GRID = ImageGrid(64, 64, ((2, 3), (3, 4)))


def codes(seed: int = 0) -> ImageCodes:
    generator = torch.Generator().manual_seed(seed)
    semantic, pixel = (
        torch.randint(VOCAB.codes(level), grid, generator=generator) for level, grid in enumerate(GRID.levels)
    )
    return ImageCodes(64, 64, (semantic, pixel))


def test_the_layout_is_spelled_out():
    soi, eoi, eol, sol0, eol0, sol1, eol1 = VOCAB.structure
    picture = ImageCodes(64, 64, (torch.tensor([[0, 1], [2, 7]]), torch.tensor([[0, 23, 5]])))
    lo0, lo1 = VOCAB.levels[0][0], VOCAB.levels[1][0]
    assert encode_image(picture, VOCAB).tolist() == [
        soi, sol0, lo0, lo0 + 1, eol, lo0 + 2, lo0 + 7, eol, eol0,
        sol1, lo1, lo1 + 23, lo1 + 5, eol, eol1, eoi,
    ]  # fmt: skip


@given(seed=st.integers(0, 2**31))
def test_codes_survive(seed):
    picture = codes(seed)
    ids = encode_image(picture, VOCAB)
    assert len(ids) == GRID.num_tokens
    back = decode_image(ids.tolist(), GRID, VOCAB)
    assert torch.equal(back.semantic, picture.semantic)
    assert torch.equal(back.pixel, picture.pixel)


@given(place=st.integers(0, GRID.num_tokens - 1), wrong=st.integers(-300, VOCAB.rows + 5))
def test_any_illegal_token_is_named(place, wrong):
    ids = encode_image(codes(), VOCAB)
    before = int(ids[place])
    same_level = any(lo <= before < hi and lo <= wrong < hi for lo, hi in VOCAB.levels)
    if wrong == before or same_level:
        return
    ids[place] = wrong
    with pytest.raises(ValueError, match=f"token {place} of the picture is {wrong}; expected"):
        decode_image(ids, GRID, VOCAB)


@given(length=st.integers(0, GRID.num_tokens))
def test_the_first_ids_hold_the_first_codes(length):
    picture = codes()
    part = partial_codes(encode_image(picture, VOCAB)[:length], GRID, VOCAB)
    semantic, pixel = part.levels
    assert torch.equal(semantic, picture.semantic.flatten()[: len(semantic)])
    assert torch.equal(pixel, picture.pixel.flatten()[: len(pixel)])
    there, codes_in_all = len(semantic) + len(pixel), picture.semantic.numel() + picture.pixel.numel()
    assert part.fraction == there / codes_in_all
    # structure tokens are all that is not a code: six, and an end to each row
    assert length - 6 - sum(rows for rows, _ in GRID.levels) <= there <= max(0, length - 2)
    if len(pixel):
        assert len(semantic) == picture.semantic.numel()


def test_a_single_level_has_no_marks():
    vocab = build_vocab(50, pad=0, im_start=1, im_end=2, levels=(8,), tag_pixels=(64,))
    assert [name for name, _ in vocab.added_tokens()][:4] == [
        "<start_of_image>", "<end_of_image>", "<end_of_line>", "<height_64>"
    ]  # fmt: skip
    grid, lo = ImageGrid(64, 64, ((2, 2),)), vocab.levels[0][0]
    picture = ImageCodes(64, 64, (torch.tensor([[0, 7], [3, 1]]),))
    ids = encode_image(picture, vocab)
    assert ids.tolist() == [50, lo, lo + 7, 52, lo + 3, lo + 1, 52, 51]
    assert len(ids) == grid.num_tokens
    assert torch.equal(decode_image(ids, grid, vocab).semantic, picture.semantic)
    with pytest.raises(ValueError, match="codes of 1 levels, but the vocabulary has 2"):
        encode_image(picture, VOCAB)


@pytest.mark.parametrize("wrong", [-1, 0])
def test_a_partial_picture_names_what_is_no_code(wrong):
    ids = encode_image(codes(), VOCAB)[:4]
    ids[3] = wrong
    with pytest.raises(ValueError, match=f"token 3 of the picture is {wrong}; expected"):
        partial_codes(ids, GRID, VOCAB)
    with pytest.raises(ValueError, match=rf"takes {GRID.num_tokens} tokens, got {GRID.num_tokens + 1}"):
        partial_codes(torch.zeros(GRID.num_tokens + 1, dtype=torch.int64), GRID, VOCAB)


def test_lengths_and_ranges():
    ids = encode_image(codes(), VOCAB)
    for cut in (ids[:-1], ids[:0]):
        with pytest.raises(ValueError, match=f"a picture of 64x64 takes {GRID.num_tokens} tokens, got {len(cut)}"):
            decode_image(cut, GRID, VOCAB)
    with pytest.raises(ValueError, match="semantic code 8 is out of range; allowed are 0 to 7"):
        encode_image(ImageCodes(64, 64, (torch.tensor([[8]]), torch.tensor([[0]]))), VOCAB)
    with pytest.raises(ValueError, match="pixel code -1 is out of range"):
        encode_image(ImageCodes(64, 64, (torch.tensor([[0]]), torch.tensor([[-1]]))), VOCAB)
    with pytest.raises(ValueError, match="semantic codes: expected integers"):
        ImageCodes(64, 64, (torch.zeros(2, 2), torch.zeros(1, 1, dtype=torch.int64)))


@pytest.mark.parametrize("name", ["und", "und2", "text", "t2i", "edit"])
def test_recorded_position_maps(golden, name):
    from golden_mllm import Recorded

    recorded = Recorded(golden("mllm_tiny"))
    tower = recorded.config.vision_tower
    sizes = [recorded.official["image_sizes_hw"][i] for i in recorded.official["samples"][name]["images"]]
    grids = [image_grid((h, w), tower) for h, w in sizes]
    ids = recorded.inputs[f"{name}.input_ids"]
    found = position_map(ids, grids, recorded.config.vocab)
    assert torch.equal(found, recorded.outputs[f"{name}.position_map"])
    assert expanded_length(ids, grids) == len(found)


def test_every_placeholder_needs_a_picture():
    grid = image_grid((64, 64), DualViTokConfig())
    with pytest.raises(ValueError, match="1 image placeholders but 2 pictures"):
        position_map(torch.tensor([1, IMAGE_PLACEHOLDER]), [grid, grid], VOCAB)
