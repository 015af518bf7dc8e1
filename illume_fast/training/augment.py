"""Changes to training pictures that keep what they show."""

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def shifted(x: Tensor, offsets: Tensor) -> Tensor:
    """Moves each picture [B, 3, H, W] by its own (rows, columns) of `offsets` int64 [B, 2]; white (1.0) moves in."""
    batch, _, height, width = x.shape
    reach = int(offsets.abs().max()) if offsets.numel() else 0
    padded = torch.nn.functional.pad(x, (reach,) * 4, value=1.0)
    rows = torch.arange(height)[None] + reach - offsets[:, :1]
    columns = torch.arange(width)[None] + reach - offsets[:, 1:]
    pictures = torch.arange(batch)[:, None, None]
    return padded.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def random_shift(x: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Moves every picture by up to `reach` pixels each way."""
    return shifted(x, torch.randint(-reach, reach + 1, (len(x), 2), generator=generator))


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the pictures."""
    flip = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, x.flip(-1), x)


def random_colours(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Swaps the colour channels of a `share` of the pictures at random."""
    order = torch.rand(len(x), 3, generator=generator).argsort(dim=1)
    chosen = torch.rand(len(x), 1, generator=generator) < share
    order = torch.where(chosen, order, torch.arange(3)[None])
    return x.gather(1, order[:, :, None, None].expand_as(x))


def random_zoom(x: Tensor, lowest: float, generator: torch.Generator) -> Tensor:
    """Scales the whole batch by one random factor in [lowest, 1] and centres it on white."""
    factor = lowest + (1 - lowest) * float(torch.rand((), generator=generator))
    height, width = x.shape[-2:]
    rows, columns = round(height * factor), round(width * factor)
    if (rows, columns) == (height, width):
        return x
    small = torch.nn.functional.interpolate(x, size=(rows, columns), mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    return torch.nn.functional.pad(small, (left, width - columns - left, top, height - rows - top), value=1.0)
