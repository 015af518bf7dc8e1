"""Random tensors of every kind that an op may meet, reproducible from a seed."""

import torch
from support import DEVICE
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200, 257)


class Random:
    """Choices from one seed. `special` is the chance that a tensor holds NaN or infinities."""

    def __init__(self, seed: int, special: float = 0.15) -> None:
        self.gen = torch.Generator().manual_seed(seed)
        self.special = special

    def number(self, low: int, high: int) -> int:
        """A whole number in [low, high)."""
        return int(torch.randint(low, high, (), generator=self.gen))

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return float(torch.rand((), generator=self.gen)) < p

    def choice(self, options):
        """One of them."""
        return options[self.number(0, len(options))]

    def size(self, most: int = 300, huge: int = 0) -> int:
        """A size, odd ones among them, 0 now and then; one time in a hundred up to `huge`, where that is given."""
        if huge and self.chance(0.01):
            return self.number(most, huge + 1)
        return min(most, self.choice(SIZES))

    def per_row(self, rows: int, options):
        """One of the options for all rows, or now and then a tensor of one for each row."""
        if self.chance(0.7):
            return self.choice(options)
        return torch.tensor([self.choice(options) for _ in range(rows)], dtype=torch.tensor(options).dtype).to(DEVICE)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 in [low, high)."""
        return torch.randint(low, high, shape, generator=self.gen)

    def values(
        self, *shape: int, dtype: torch.dtype = torch.float32, special: bool = True, written: bool = False
    ) -> Tensor:
        """Gaussian numbers of some scale, now and then with ties, zeros, subnormal numbers, NaN or infinities.

        What will be `written` to has no two numbers in one place.
        """
        x = torch.randn(shape, generator=self.gen)
        half = dtype == torch.float16
        scale = self.choice((1.0, 1.0, 1.0, 1e-3, 30.0) if half else (1.0, 1.0, 1.0, 1e-3, 30.0, 1e-20, 1e18, 1e20))
        x = x * scale
        if self.chance(0.2):
            x = (x / scale).round() * scale
        if self.chance(0.1):
            x = torch.where(torch.rand(shape, generator=self.gen) < 0.5, 0.0, x)
        if self.chance(0.05):
            x = x * ((1e-6 if half else 1e-40) / scale)
        if self.chance(0.1) and x.dim() > 1:  # rows of very different lengths
            most = 3 if half else 20
            powers = torch.rand((*shape[:-1], 1), generator=self.gen) * 2 * most - most
            x = x / scale * 10**powers
        if special and x.numel() and self.chance(self.special):
            for _ in range(self.number(1, 4)):
                where = self.number(0, x.numel())
                x.view(-1)[where] = self.choice((float("nan"), float("inf"), float("-inf")))
        if not written and self.chance(0.03) and x.dim() and x.shape[0]:  # every row the same memory
            return x[:1].to(DEVICE, dtype).expand(shape)
        return self.laid_out(x.to(dtype))

    def laid_out(self, x: Tensor) -> Tensor:
        """The same numbers on the device in some layout: packed, part of something larger, transposed or stepped."""
        x = x.to(DEVICE)
        other = torch.nan if x.is_floating_point() else 1 << 30  # what must not be read
        kind = self.number(0, 5) if x.dim() else 0
        if kind == 1:
            room = torch.full((x.shape[0] + 3, *x.shape[1:]), other, dtype=x.dtype, device=DEVICE)
            room[2 : 2 + x.shape[0]] = x
            return room[2 : 2 + x.shape[0]]
        if kind == 2:
            room = torch.full((*x.shape[:-1], x.shape[-1] + 5), other, dtype=x.dtype, device=DEVICE)
            room[..., 1 : 1 + x.shape[-1]] = x
            return room[..., 1 : 1 + x.shape[-1]]
        if kind == 3 and x.dim() > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 4:
            room = torch.full((*x.shape[:-1], 2 * x.shape[-1]), other, dtype=x.dtype, device=DEVICE)
            room[..., ::2] = x
            return room[..., ::2]
        return x
