"""Thousands of random calls of every op against float64: shapes, strides, scales, ties, NaN and infinities.

ILLUME_FAST_RANDOM_CALLS says how many (10 000 in `make test-all`, a few in the quick suite), ILLUME_FAST_RANDOM_SEED
with which seed to begin. They run on the GPU where there is one. A failure names its seed; what it finds becomes a
named case beside the op's other tests.
"""

import os

import pytest
import random_codebooks
import random_layers
import random_losses
import random_maps
import random_paged
import random_plans
import random_sampling
import random_search
from random_inputs import Random

from illume_fast import ops

CHECKS = {
    name.removeprefix("check_"): check
    for family in (
        random_codebooks,
        random_layers,
        random_losses,
        random_maps,
        random_paged,
        random_plans,
        random_sampling,
        random_search,
    )
    for name, check in vars(family).items()
    if name.startswith("check_")
}
CALLS = int(os.environ.get("ILLUME_FAST_RANDOM_CALLS") or 0)
FIRST = int(os.environ.get("ILLUME_FAST_RANDOM_SEED") or 0)


def run(op, calls):
    for seed in range(FIRST, FIRST + calls):
        try:
            CHECKS[op](Random(seed))
        except Exception as error:
            raise AssertionError(f"{op}, seed {seed}: {error}") from error


def test_every_op_is_called():
    # add_rms_norm is every other call of rms_norm, PackedCodebook some of nearest_code; the rest is no op
    assert set(CHECKS) == set(ops.__all__) - {"PackedCodebook", "add_rms_norm", "use_backend"}


@pytest.mark.parametrize("op", CHECKS)
def test_some_random_calls(op):
    run(op, CALLS or 100)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("op", CHECKS)
def test_ten_thousand_random_calls(op):
    run(op, CALLS or 10_000)
