"""Sequences with pictures in them: code blocks as ids and back, placeholders and where each embedding comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from illume_fast.data.sizes import ImageGrid
from illume_fast.model.image_block import PIXEL_SLOT, SEMANTIC_SLOT, block_slots
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig

_SLOTS = (SEMANTIC_SLOT, PIXEL_SLOT)
_LEVELS = ("semantic", "pixel")
TEXT, STRUCTURE, SEMANTIC, PIXEL = range(4)


@dataclass(frozen=True)
class ImageCodes:
    """A written picture: its size in pixels and its codes, int64 [h, w] and [p, q]."""

    height: int
    width: int
    semantic: Tensor
    pixel: Tensor

    def __post_init__(self) -> None:
        for name, codes in zip(_LEVELS, (self.semantic, self.pixel), strict=True):
            if codes.dim() != 2 or codes.is_floating_point() or codes.numel() == 0:
                raise ValueError(f"{name} codes: expected integers [rows, columns], got {list(codes.shape)}")


@dataclass(frozen=True)
class PartialCodes:
    """A picture of `grid` while it is written: its first codes of each level in raster order, int64 [n]."""

    grid: ImageGrid
    semantic: Tensor
    pixel: Tensor

    @property
    def fraction(self) -> float:
        """The part of the picture's codes that is there."""
        there = len(self.semantic) + len(self.pixel)
        return there / sum(rows * columns for rows, columns in (self.grid.semantic, self.grid.pixel))


def encode_image(codes: ImageCodes, vocab: VocabConfig) -> Tensor:
    """Codes -> ids int64 [n], from `<start_of_image>` to `<end_of_image>`. ValueError for a code out of range."""
    ids = block_slots(vocab, *((c.shape[0], c.shape[1]) for c in (codes.semantic, codes.pixel)))
    for name, slot, values, (lo, hi) in zip(_LEVELS, _SLOTS, (codes.semantic, codes.pixel), vocab.levels, strict=True):
        least, most = int(values.min()), int(values.max())
        if least < 0 or most >= hi - lo:
            wrong = least if least < 0 else most
            raise ValueError(f"{name} code {wrong} is out of range; allowed are 0 to {hi - lo - 1}")
        ids[ids == slot] = values.flatten().to(torch.int64) + lo
    return ids


def decode_image(ids: Tensor | Sequence[int], grid: ImageGrid, vocab: VocabConfig) -> ImageCodes:
    """Ids of one whole block -> codes. ValueError, naming the place, for anything that is not this grid's block."""
    ids = torch.as_tensor(ids, dtype=torch.int64).flatten()
    if len(ids) < grid.num_tokens:
        raise ValueError(f"a picture of {grid.height}x{grid.width} takes {grid.num_tokens} tokens, got {len(ids)}")
    codes = partial_codes(ids, grid, vocab)
    return ImageCodes(grid.height, grid.width, codes.semantic.view(grid.semantic), codes.pixel.view(grid.pixel))


def partial_codes(ids: Tensor | Sequence[int], grid: ImageGrid, vocab: VocabConfig) -> PartialCodes:
    """The first ids of a block -> the codes among them. ValueError, naming the place, for what this grid's lacks."""
    ids = torch.as_tensor(ids, dtype=torch.int64).flatten().cpu()
    if len(ids) > grid.num_tokens:
        raise ValueError(f"a picture of {grid.height}x{grid.width} takes {grid.num_tokens} tokens, got {len(ids)}")
    slots = _slots_of(vocab, grid.semantic, grid.pixel)[: len(ids)]
    wrong = (slots >= 0) & (ids != slots)
    for slot, (lo, hi) in zip(_SLOTS, vocab.levels, strict=True):
        wrong |= (slots == slot) & ((ids < lo) | (ids >= hi))
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ValueError(
            f"token {place} of the picture is {int(ids[place])}; expected {_expected(slots[place], vocab)}"
        )
    return PartialCodes(grid, *(ids[slots == slot] - lo for slot, (lo, _) in zip(_SLOTS, vocab.levels, strict=True)))


_slots_of = lru_cache(maxsize=64)(block_slots)


def _expected(slot: Tensor, vocab: VocabConfig) -> str:
    if slot >= 0:
        return str(int(slot))
    lo, hi = vocab.levels[_SLOTS.index(int(slot))]
    return f"{lo} to {hi - 1}"


def position_map(ids: Tensor, grids: Sequence[ImageGrid], vocab: VocabConfig) -> Tensor:
    """Where each embedding of a sequence comes from once its placeholders are expanded: int32 [L, 2] of (kind, index).

    Kinds: `TEXT` with the index into `ids` [T]; `STRUCTURE` with a token id; `SEMANTIC` and `PIXEL` with the raster
    index of the feature. `grids` holds the grid of each placeholder's picture, in order.
    """
    holes = (ids == IMAGE_PLACEHOLDER).nonzero().flatten().tolist()
    if len(holes) != len(grids):
        raise ValueError(f"{len(holes)} image placeholders but {len(grids)} pictures")
    text = torch.stack([torch.full_like(ids, TEXT), torch.arange(len(ids))], dim=1)
    parts, start = [], 0
    for hole, grid in zip(holes, grids, strict=True):
        parts += [text[start:hole], _block_map(block_slots(vocab, grid.semantic, grid.pixel))]
        start = hole + 1
    return torch.cat([*parts, text[start:]]).to(torch.int32)


def _block_map(slots: Tensor) -> Tensor:
    kinds, index = torch.full_like(slots, STRUCTURE), slots.clone()
    for kind, slot in ((SEMANTIC, SEMANTIC_SLOT), (PIXEL, PIXEL_SLOT)):
        here = slots == slot
        kinds[here] = kind
        index[here] = torch.arange(int(here.sum()))
    return torch.stack([kinds, index], dim=1)


def expanded_length(ids: Sequence[int] | Tensor, grids: Sequence[ImageGrid]) -> int:
    """Embeddings of a sequence whose placeholders stand for pictures of these grids."""
    return len(ids) - len(grids) + sum(grid.num_tokens for grid in grids)
