"""The order of tokens that stand for one image: the same for images read (features) and written (codes).

`<start_of_image>`, the levels, `<end_of_image>`; a level is its rows, each closed by `<end_of_line>`. Where there are
several levels (ILLUME+: semantic, then pixel) each stands between `<start_of_levelI>` and `<end_of_levelI>`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from illume_fast.model.vocab import VocabConfig

SEMANTIC_SLOT = -1
PIXEL_SLOT = -2
Grid = tuple[int, int]


def slot_of(level: int) -> int:
    """What stands for a code or feature of a level: `SEMANTIC_SLOT` for level 0, `PIXEL_SLOT` for level 1."""
    return SEMANTIC_SLOT - level


def block_length(grids: Sequence[Grid]) -> int:
    """Tokens of an image with these grids, one a level, from `<start_of_image>` to `<end_of_image>`."""
    marks = 2 * len(grids) if len(grids) > 1 else 0
    return 2 + marks + sum(rows * (columns + 1) for rows, columns in grids)


def block_slots(vocab: VocabConfig, grids: Sequence[Grid]) -> Tensor:
    """int64 [block_length]: a structure token's id, or a level's slot for a code or feature."""
    soi, eoi, eol = vocab.structure[:3]
    levels = []
    for number, (rows, columns) in enumerate(grids):
        level = torch.full((rows, columns + 1), slot_of(number), dtype=torch.int64)
        level[:, -1] = eol
        levels.append(level.flatten())
    if vocab.level_marks:
        marks = torch.tensor(vocab.level_marks)
        levels = [torch.cat([m[:1], level, m[1:]]) for m, level in zip(marks, levels, strict=True)]
    return torch.cat([torch.tensor([soi]), *levels, torch.tensor([eoi])])


def fill_block(vocab: VocabConfig, structure: Tensor, features: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
    """Features [B, h * w, H] of each level in their places among the structure tokens: [B, block_length, H].

    `structure` [S, H] are the embeddings of the vocabulary's structure tokens, in their order.
    """
    batch, width = features[0].shape[0], features[0].shape[-1]
    tokens = structure.to(features[0].dtype).unsqueeze(1).unsqueeze(1).expand(-1, batch, 1, width)
    soi, eoi, eol = tokens[:3]
    parts = []
    for level, (values, grid) in enumerate(zip(features, grids, strict=True)):
        ends = eol.unsqueeze(1).expand(batch, grid[0], 1, width)
        lines = torch.cat([values.unflatten(1, grid), ends], dim=2).flatten(1, 2)
        parts += [tokens[3 + 2 * level], lines, tokens[4 + 2 * level]] if vocab.level_marks else [lines]
    return torch.cat([soi, *parts, eoi], dim=1)
