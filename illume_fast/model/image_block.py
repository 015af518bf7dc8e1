"""The order of tokens that stand for one image: the same for images read (features) and written (codes).

`<start_of_image> <start_of_level0>`, each semantic row closed by `<end_of_line>`, `<end_of_level0> <start_of_level1>`,
each pixel row closed by `<end_of_line>`, `<end_of_level1> <end_of_image>`.
"""

import torch
from torch import Tensor

from illume_fast.model.vocab import VocabConfig

SEMANTIC_SLOT = -1
PIXEL_SLOT = -2
Grid = tuple[int, int]


def block_length(semantic: Grid, pixel: Grid) -> int:
    """Tokens of an image, from `<start_of_image>` to `<end_of_image>`."""
    return 6 + sum(rows * (columns + 1) for rows, columns in (semantic, pixel))


def block_slots(vocab: VocabConfig, semantic: Grid, pixel: Grid) -> Tensor:
    """int64 [block_length]: a structure token's id, or `SEMANTIC_SLOT` / `PIXEL_SLOT` for a code or feature."""
    soi, eoi, eol, sol0, eol0, sol1, eol1 = vocab.structure
    levels = []
    for (rows, columns), slot in ((semantic, SEMANTIC_SLOT), (pixel, PIXEL_SLOT)):
        level = torch.full((rows, columns + 1), slot, dtype=torch.int64)
        level[:, -1] = eol
        levels.append(level.flatten())
    return torch.cat([
        torch.tensor([soi, sol0]), levels[0], torch.tensor([eol0, sol1]), levels[1], torch.tensor([eol1, eoi])
    ])  # fmt: skip


def fill_block(embeddings: Tensor, semantic: Tensor, pixel: Tensor, grids: tuple[Grid, Grid]) -> Tensor:
    """Features semantic [B, h * w, H] and pixel [B, p * q, H] in their places among the structure tokens.

    `embeddings` [7, H] are those of the structure tokens in the vocabulary's order; returns [B, block_length, H].
    """
    batch, width = semantic.shape[0], semantic.shape[-1]
    soi, eoi, eol, sol0, eol0, sol1, eol1 = (e.expand(batch, 1, width) for e in embeddings.to(semantic.dtype))

    def lines(features: Tensor, grid: Grid) -> Tensor:
        ends = eol.unsqueeze(1).expand(batch, grid[0], 1, width)
        return torch.cat([features.unflatten(1, grid), ends], dim=2).flatten(1, 2)

    return torch.cat([soi, sol0, lines(semantic, grids[0]), eol0, sol1, lines(pixel, grids[1]), eol1, eoi], dim=1)
