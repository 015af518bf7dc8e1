"""Seeds of the answers of a batch, from one seed, several, or torch's generators."""

from collections.abc import Sequence
from numbers import Integral

import torch

from illume_fast.data.errors import InputError, shorten
from illume_fast.engine import sample_seed

Seeds = int | Sequence[int] | None
Generators = torch.Generator | Sequence[torch.Generator] | None


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed from `generator`, or from torch's global one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**53, (), generator=generator, device=device))


def seed_of_each(generators: Sequence[torch.Generator], prompts: int, samples: int) -> list[int]:
    """A seed from each generator of a list, one for each of `samples` answers to each prompt, as diffusers counts them.

    InputError where their number is another, or one is no generator.
    """
    if wrong := [one for one in generators if not isinstance(one, torch.Generator)]:
        raise InputError(f"generator: expected torch.Generator, got {type(wrong[0]).__name__}; numbers are seeds")
    if len(generators) != prompts * samples:
        raise InputError(
            f"generator: {len(generators)} given for {prompts * samples} answers ({prompts} prompts, {samples} each);"
            " give one, or one for each"
        )
    return [drawn_seed(generator) for generator in generators]


def seeds_of_answers(seed: Seeds, generator: Generators, prompts: int, samples: int) -> list[int]:
    """The seeds of `samples` answers to each prompt, prompt by prompt.

    Raises:
        InputError: a list has another length than the batch, a seed is no whole number or out of range, or both were
            given.
    """
    if seed is not None and generator is not None:
        raise InputError("give a seed or a generator, not both")
    if generator is not None and not isinstance(generator, torch.Generator):
        given = list(generator) if isinstance(generator, Sequence) else [generator]
        return seed_of_each(given, prompts, samples)
    if seed is None:
        starts = [drawn_seed(generator) for _ in range(prompts)]
    elif isinstance(seed, Sequence) and not isinstance(seed, str):
        starts = list(seed)
    else:
        starts = [seed] * prompts
    if strange := [start for start in starts if not isinstance(start, Integral) or isinstance(start, bool)]:
        raise InputError(f"seed must be a whole number, or a list of them, got {shorten(strange[0])}")
    if len(starts) != prompts:
        raise InputError(f"seed: {len(starts)} given for {prompts} prompts; give one, or one for each")
    if wrong := [start for start in starts if not 0 <= start < 2**63]:
        raise InputError(f"seed must lie in [0, 2**63), got {wrong[0]}")
    return [sample_seed(int(start), sample) for start in starts for sample in range(samples)]
