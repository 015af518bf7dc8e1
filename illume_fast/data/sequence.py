"""Sequences with pictures in them: code blocks as ids and back, placeholders and where each embedding comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from illume_fast.data.sizes import ImageGrid
from illume_fast.model.image_block import block_slots, slot_of
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig

_LEVELS = ("semantic", "pixel")
TEXT, STRUCTURE, SEMANTIC, PIXEL = range(4)


@dataclass(frozen=True)
class ImageCodes:
    """A written picture: its size in pixels and its codes, int64 [rows, columns] of each level.

    ILLUME+ has semantic codes [h, w] and pixel codes [p, q], ILLUME semantic ones alone.
    """

    height: int
    width: int
    levels: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        for name, codes in zip(_LEVELS, self.levels, strict=False):
            if codes.dim() != 2 or codes.is_floating_point() or codes.numel() == 0:
                raise ValueError(f"{name} codes: expected integers [rows, columns], got {list(codes.shape)}")

    @property
    def semantic(self) -> Tensor:
        """Codes of level 0, int64 [h, w]."""
        return self.levels[0]

    @property
    def pixel(self) -> Tensor:
        """Codes of level 1, int64 [p, q]. IndexError where there is one level alone."""
        return self.levels[1]


@dataclass(frozen=True)
class PartialCodes:
    """A picture of `grid` while it is written: its first codes of each level in raster order, int64 [n]."""

    grid: ImageGrid
    levels: tuple[Tensor, ...]

    @property
    def fraction(self) -> float:
        """The part of the picture's codes that is there."""
        return sum(map(len, self.levels)) / self.grid.num_codes


def encode_image(codes: ImageCodes, vocab: VocabConfig) -> Tensor:
    """Codes -> ids int64 [n], from `<start_of_image>` to `<end_of_image>`. ValueError for a code out of range."""
    if len(codes.levels) != len(vocab.levels):
        raise ValueError(f"codes of {len(codes.levels)} levels, but the vocabulary has {len(vocab.levels)}")
    ids = block_slots(vocab, [(c.shape[0], c.shape[1]) for c in codes.levels])
    for level, (values, (lo, hi)) in enumerate(zip(codes.levels, vocab.levels, strict=True)):
        least, most = int(values.min()), int(values.max())
        if least < 0 or most >= hi - lo:
            wrong = least if least < 0 else most
            raise ValueError(f"{_LEVELS[level]} code {wrong} is out of range; allowed are 0 to {hi - lo - 1}")
        ids[ids == slot_of(level)] = values.flatten().to(torch.int64) + lo
    return ids


def decode_image(ids: Tensor | Sequence[int], grid: ImageGrid, vocab: VocabConfig) -> ImageCodes:
    """Ids of one whole block -> codes. ValueError, naming the place, for anything that is not this grid's block."""
    ids = torch.as_tensor(ids, dtype=torch.int64).flatten()
    if len(ids) < grid.num_tokens:
        raise ValueError(f"a picture of {grid.height}x{grid.width} takes {grid.num_tokens} tokens, got {len(ids)}")
    codes = partial_codes(ids, grid, vocab)
    levels = (level.view(shape) for level, shape in zip(codes.levels, grid.levels, strict=True))
    return ImageCodes(grid.height, grid.width, tuple(levels))


def partial_codes(ids: Tensor | Sequence[int], grid: ImageGrid, vocab: VocabConfig) -> PartialCodes:
    """The first ids of a block -> the codes among them. ValueError, naming the place, for what this grid's lacks."""
    ids = torch.as_tensor(ids, dtype=torch.int64).flatten().cpu()
    if len(ids) > grid.num_tokens:
        raise ValueError(f"a picture of {grid.height}x{grid.width} takes {grid.num_tokens} tokens, got {len(ids)}")
    slots = _slots_of(vocab, grid.levels)[: len(ids)]
    wrong = (slots >= 0) & (ids != slots)
    for level, (lo, hi) in enumerate(vocab.levels):
        wrong |= (slots == slot_of(level)) & ((ids < lo) | (ids >= hi))
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ValueError(
            f"token {place} of the picture is {int(ids[place])}; expected {_expected(slots[place], vocab)}"
        )
    return PartialCodes(grid, tuple(ids[slots == slot_of(i)] - lo for i, (lo, _) in enumerate(vocab.levels)))


_slots_of = lru_cache(maxsize=64)(block_slots)


def _expected(slot: Tensor, vocab: VocabConfig) -> str:
    if slot >= 0:
        return str(int(slot))
    (lo, hi) = next(ids for level, ids in enumerate(vocab.levels) if slot_of(level) == slot)
    return f"{lo} to {hi - 1}"


def position_map(ids: Tensor, grids: Sequence[ImageGrid], vocab: VocabConfig) -> Tensor:
    """Where each embedding of a sequence comes from once its placeholders are expanded: int32 [L, 2] of (kind, index).

    Kinds: `TEXT` with the index into `ids` [T]; `STRUCTURE` with a token id; `SEMANTIC` and `PIXEL` (levels 0 and 1)
    with the raster index of the feature. `grids` holds the grid of each placeholder's picture, in order.
    """
    holes = (ids == IMAGE_PLACEHOLDER).nonzero().flatten().tolist()
    if len(holes) != len(grids):
        raise ValueError(f"{len(holes)} image placeholders but {len(grids)} pictures")
    text = torch.stack([torch.full_like(ids, TEXT), torch.arange(len(ids))], dim=1)
    parts, start = [], 0
    for hole, grid in zip(holes, grids, strict=True):
        parts += [text[start:hole], _block_map(block_slots(vocab, grid.levels))]
        start = hole + 1
    return torch.cat([*parts, text[start:]]).to(torch.int32)


def _block_map(slots: Tensor) -> Tensor:
    kinds, index = torch.full_like(slots, STRUCTURE), slots.clone()
    for level, kind in enumerate((SEMANTIC, PIXEL)):
        here = slots == slot_of(level)
        kinds[here] = kind
        index[here] = torch.arange(int(here.sum()))
    return torch.stack([kinds, index], dim=1)


def expanded_length(ids: Sequence[int] | Tensor, grids: Sequence[ImageGrid]) -> int:
    """Embeddings of a sequence whose placeholders stand for pictures of these grids."""
    return len(ids) - len(grids) + sum(grid.num_tokens for grid in grids)
