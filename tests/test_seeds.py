"""Seeds of a batch's answers: one for all, one for each prompt, one generator for each answer."""

import pytest
import torch
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.engine import sample_seed
from illume_fast.seeds import drawn_seed, seeds_of_answers


def made(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_seeds_of_answers():
    assert seeds_of_answers(5, None, 2, 2) == [5, sample_seed(5, 1)] * 2
    assert seeds_of_answers([5, 6], None, 2, 1) == [5, 6]
    one = seeds_of_answers(None, made(1)[0], 2, 2)
    assert one == seeds_of_answers(None, made(1)[0], 2, 2)
    assert len(set(one)) == 4
    assert seeds_of_answers(None, made(1, 2, 1), 3, 1) == [drawn_seed(g) for g in made(1, 2, 1)]
    assert seeds_of_answers(None, None, 1, 1) != seeds_of_answers(None, None, 1, 1)


@pytest.mark.parametrize(
    "seed, generator, message",
    [
        ([1], None, "seed: 1 given for 2 prompts"),
        ([1, -1], None, r"seed must lie in \[0, 2\*\*63\), got -1"),
        (2**63, None, "seed must lie in"),
        ("1", None, "seed must be a whole number, or a list of them, got '1'"),
        ([1, 1.5], None, "must be a whole number, or a list of them, got 1.5"),
        (True, None, "got True"),
        (None, 5, "generator: expected torch.Generator, got int; numbers are seeds"),
        (None, [7] * 6, "expected torch.Generator, got int"),
        (1, made(1), "a seed or a generator, not both"),
        (None, made(1, 2), r"generator: 2 given for 6 answers \(2 prompts, 3 each\); give one, or one for each"),
        (None, [], "generator: 0 given for 6 answers"),
    ],
)
def test_what_is_refused(seed, generator, message):
    with pytest.raises(InputError, match=message):
        seeds_of_answers(seed, generator, 2, 3)


def test_a_generator_for_each_picture(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    settings = {"num_images_per_prompt": 2, "output_type": "codes"}
    out = pipe(["a red heart", "a dog"], generator=made(1, 2, 3, 1), **settings)
    assert out.seeds == [drawn_seed(g) for g in made(1, 2, 3, 1)]
    for codes, seed, prompt in zip(out.images, out.seeds, ["a red heart"] * 2 + ["a dog"] * 2, strict=True):
        alone = pipe(prompt, seed=seed, output_type="codes").images[0]
        assert all(torch.equal(a, b) for a, b in zip(codes.levels, alone.levels, strict=True))
    with pytest.raises(InputError, match="generator: 2 given for 4 answers"):
        pipe(["a red heart", "a dog"], generator=made(1, 2), **settings)
