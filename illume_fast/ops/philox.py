"""Philox 4x32-10 (Salmon et al., SC 2011) on tensors: random words that are a function of a key and a counter."""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(
    key: Tensor, counter: Tensor, third: Tensor | None = None, fourth: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four 32-bit words of each (key, counter), int64 of the same shape, each in [0, 2**32).

    `key` and `counter` are int64 bit patterns: the key's two words are its halves, low first; the counter's are the low
    and high half of `counter`, then `third` (words as int64, zero where None) and `fourth`. The three broadcast.
    """
    k0, k1 = key & _WORD, (key >> 32) & _WORD
    c0, c1 = counter & _WORD, (counter >> 32) & _WORD
    c2, c3 = torch.zeros_like(c0) if third is None else third, torch.full_like(c0, fourth)
    for _ in range(10):
        # a product of two words wraps in int64, which leaves its 64 bits as they should be
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def scaled(low: Tensor, high: Tensor, total: Tensor) -> Tensor:
    """floor((high * 2**32 + low) * total / 2**64): a 64-bit random number brought to [0, total), total < 2**62."""
    t0, t1 = total & 0x7FFFFFFF, total >> 31
    # with r = high * 2**32 + low: r * total / 2**32 = z * 2**31 + y + x, whose parts stay below 2**63
    x = (low * t1 + (low * t0 >> 31)) >> 1
    y, z = high * t0, high * t1
    carry = ((x & _WORD) + (y & _WORD) + ((z & 1) << 31)) >> 32
    return (z >> 1) + (y >> 32) + (x >> 32) + carry
