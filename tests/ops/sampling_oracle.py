"""The rule of `cfg_sample` once more, for one row: float64, by sorting, in NumPy."""

import numpy as np


def survivors(z, temperature, top_k, top_p, min_p):
    """Boolean mask of the ids that may be drawn from mixed logits z, and their probabilities, float64."""
    z = np.asarray(z, np.float64)
    alive = z > -np.inf
    if temperature == 0:
        only = np.arange(len(z)) == z.argmax()
        return only, only.astype(np.float64)
    if 0 < top_k < len(z):
        alive &= z >= np.sort(z)[-top_k]
    p = np.where(alive, np.exp((z - z.max()) / temperature), 0.0)
    p /= p.sum()
    if top_p < 1:
        _, where = np.unique(z, return_inverse=True)
        by_value = np.bincount(where, p)
        before = by_value.sum() - by_value.cumsum()  # mass of strictly larger values
        alive &= (before <= top_p)[where] | (z == z.max())
    alive &= p >= min_p * p.max()
    p = np.where(alive, p, 0.0)
    return alive, p / p.sum()


def mixed(cond, uncond, guidance):
    c, u = np.asarray(cond, np.float64), np.asarray(uncond, np.float64)
    return c if guidance == 1 else u + guidance * (c - u)


def philox(key, counter, third=0, fourth=0):
    """Philox 4x32-10 in Python integers: the first two words as one number, the first word low."""
    word = 0xFFFFFFFF
    k = [key & word, key >> 32 & word]
    c = [counter & word, counter >> 32 & word, third, fourth]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & word, p0 >> 32 ^ c[3] ^ k[1], p0 & word]
        k = [k[0] + 0x9E3779B9 & word, k[1] + 0xBB67AE85 & word]
    return c[1] << 32 | c[0]


def drawn(probabilities, seed, step):
    """The id whose running mass first exceeds the row's random number."""
    uniform = philox(seed, step) / 2**64
    return int(np.searchsorted(probabilities.cumsum(), uniform, side="right"))


def raced(probabilities, seed, step):
    """The id that comes first when each has a number of its own."""
    times = np.full(len(probabilities), np.inf)
    for i in np.flatnonzero(probabilities):
        u = ((philox(seed, step, int(i), 1) >> 11) + 1) / 2**53
        times[i] = -np.log(u) / probabilities[i]
    return int(times.argmin())
