"""Padded batches of ids, as tokenizers of Hugging Face make them, and the pictures that belong to them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from illume_fast.model.vocab import IMAGE_PLACEHOLDER

Pictures = Tensor | Sequence[Tensor]


def rows_of(input_ids: Tensor, attention_mask: Tensor | None) -> list[slice]:
    """Where each row of a batch [B, T] has its ids; padding is to the left or to the right of them.

    Raises:
        ValueError: shapes differ, a row is empty, or its mask has holes.
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point() or not len(input_ids):
        raise ValueError(
            f"input_ids: expected integers [B, T] of a row at least, got {input_ids.dtype} {list(input_ids.shape)}"
        )
    if attention_mask is None:
        return [slice(0, input_ids.shape[1])] * len(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask {list(attention_mask.shape)} must have the shape of input_ids {list(input_ids.shape)}"
        )
    rows = []
    for i, row in enumerate(attention_mask.bool().cpu()):
        places = row.nonzero().flatten()
        if not len(places):
            raise ValueError(f"attention_mask: row {i} is all padding")
        first, last = int(places[0]), int(places[-1])
        if len(places) != last - first + 1 or (first > 0 and last + 1 < len(row)):
            raise ValueError(f"attention_mask: row {i} must be padded on one side, without holes")
        rows.append(slice(first, last + 1))
    return rows


def is_left_padded(rows: Sequence[slice]) -> bool:
    """Whether padding stands before the ids in some row."""
    return any(row.start > 0 for row in rows)


def deal_pictures(ids: Sequence[Tensor], pictures: Pictures | None) -> list[list[Tensor]]:
    """Pictures of a batch, in order of their placeholders, to its rows: each [1, 3, H, W].

    `pictures` are [N, 3, H, W], or a list of [3, H, W] or [1, 3, H, W]. ValueError where their number is another than
    that of the placeholders.
    """
    given = [] if pictures is None else [_one(i, picture) for i, picture in enumerate(pictures)]
    counts = [int((row == IMAGE_PLACEHOLDER).sum()) for row in ids]
    if sum(counts) != len(given):
        raise ValueError(f"input_ids hold {sum(counts)} image placeholders, but {len(given)} pictures were given")
    every = iter(given)
    return [[next(every) for _ in range(count)] for count in counts]


def one_of(pixel_values: Pictures | None, images: Pictures | None) -> Pictures | None:
    """The pictures, under whichever name they were given. ValueError for both."""
    if pixel_values is not None and images is not None:
        raise ValueError("pixel_values and images are two names of one argument; give one")
    return images if pixel_values is None else pixel_values


def _one(number: int, picture: Tensor) -> Tensor:
    shaped = picture[None] if picture.dim() == 3 else picture
    if shaped.dim() != 4 or shaped.shape[:2] != (1, 3) or not shaped.is_floating_point():
        raise ValueError(
            f"pixel_values: picture {number} is {picture.dtype} {list(picture.shape)}; expected floats [3, H, W] or"
            " [1, 3, H, W] in [-1, 1]"
        )
    return shaped


def pad_rows(rows: Sequence[Tensor], value: float, left: bool, width: int = 0) -> Tensor:
    """Rows [n, ...] of several lengths -> [B, T, ...], filled up with `value` on one side; T is at least `width`."""
    width = max(width, *map(len, rows))
    filled = [row.new_full((width - len(row), *row.shape[1:]), value) for row in rows]
    both = [(fill, row) if left else (row, fill) for row, fill in zip(rows, filled, strict=True)]
    return torch.stack([torch.cat(parts) for parts in both])
