"""Retrieval@1 among pictures by mean squared error, and the PSNR of a reconstruction.

Pictures are uint8 [3, H, W], so squared errors are whole numbers and equal pictures are exactly at distance 0.
Candidates that equal the target pixel by pixel (some emoji share one drawing) do not compete with it: nothing could
tell them apart. Any other candidate must be strictly farther away than the target.
"""

from collections.abc import Sequence

import numpy as np

MAX_PSNR = 100.0


def squared_errors(picture: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Sum of squared differences, int64[M], between uint8 [3, H, W] and each of uint8 [M, 3, H, W]."""
    difference = others.astype(np.int32) - picture.astype(np.int32)
    difference *= difference
    # one long axis: numpy sums it seven times faster than three short ones
    return difference.reshape(len(others), picture.size).sum(axis=1, dtype=np.int64)


def is_retrieved(output: np.ndarray, target: int, candidates: Sequence[int] | np.ndarray, pictures: np.ndarray) -> bool:
    """Whether `output` uint8 [3, H, W] is nearer to `pictures[target]` than to every other picture of `candidates`."""
    others = distractors(target, candidates, pictures)
    to_target = squared_errors(output, pictures[target : target + 1])[0]
    return bool((squared_errors(output, pictures[others]) > to_target).all())


def distractors(target: int, candidates: Sequence[int] | np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """The candidates, int64[<= len(candidates)], whose picture differs from the target's."""
    indices = np.asarray(candidates, dtype=np.int64)
    different = (pictures[indices] != pictures[target]).any(axis=(1, 2, 3))
    return indices[different]


def random_candidates(target: int, total: int, count: int, seed: int) -> np.ndarray:
    """`count` of `total` pictures without the target, the same for a target whatever else is asked for.

    Raises:
        ValueError: there are not so many others.
    """
    if count > total - 1:
        raise ValueError(f"cannot draw {count} others from {total} pictures")
    chosen = np.random.default_rng([seed, target]).choice(total - 1, size=count, replace=False)
    return chosen + (chosen >= target)


def psnr(output: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, `MAX_PSNR` where they are equal."""
    mse = squared_errors(output, target[None])[0] / target.size
    return MAX_PSNR if mse == 0 else min(MAX_PSNR, float(10 * np.log10(255.0**2 / mse)))
