"""The repetition penalty of `cfg_head_sample`: that of transformers, on the conditional branch, before guidance."""

import pytest
import torch
from support import DEVICE, backend_names, skip_unless_runs
from transformers import RepetitionPenaltyLogitsProcessor

from illume_fast.ops import cfg_head_sample, cfg_sample, use_backend
from illume_fast.ops.cfg_head_sample import cfg_head_sample_op

BACKENDS = backend_names(cfg_head_sample_op)
LO, HI, V, H = 20, 260, 300, 32
SETTINGS = {"temperature": 0.9, "top_k": 50, "then_temperature": 1.2, "then_top_k": 30}


def inputs(rows=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    cond, uncond = torch.randn(2, rows, H, generator=generator)
    weight = torch.randn(V, H, generator=generator) / 4
    seen = torch.randint(0, V, (rows, 40), generator=generator)
    seen[0, 5] = seen[0, 6] = seen[0, 7]
    counts = torch.tensor([40, 0, 1, 13, 25, 40])[:rows]
    return *(t.to(dtype).to(DEVICE) for t in (cond, uncond, weight)), seen.to(DEVICE), counts.to(DEVICE)


def on(backend, *args, **settings):
    skip_unless_runs(cfg_head_sample_op, backend, *args[:3])
    with use_backend(backend):
        return cfg_head_sample(*args, **settings)


def expected(cond, uncond, weight, seen, counts, penalty, guidance, **settings):
    """Row by row, with the processor of transformers on the whole vocabulary."""
    ids = []
    for row in range(len(cond)):
        z = (cond[row : row + 1] @ weight.T).float()
        own = seen[row : row + 1, : counts[row]]
        z = RepetitionPenaltyLogitsProcessor(penalty)(own, z)[:, LO:HI]
        u = None if uncond is None else (uncond[row : row + 1] @ weight.T).float()[:, LO:HI]
        given = {**settings, "seed": int(settings["seed"][row])}
        ids.append(int(cfg_sample(z, u, guidance=guidance, **given)) + LO)
    return ids


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_that_of_transformers(backend, dtype, guidance):
    cond, uncond, weight, seen, counts = inputs(dtype=dtype)
    uncond = None if guidance == 1.0 else uncond
    more = {**SETTINGS, "seed": torch.arange(6, device=DEVICE), "step": 4}
    known = {"seen": seen, "seen_counts": counts, "repetition_penalty": 1.7}
    ids = on(backend, cond, uncond, weight, (LO, HI), guidance=guidance, **more, **known)
    assert ids.tolist() == expected(cond, uncond, weight, seen, counts, 1.7, guidance, **more)


@pytest.mark.parametrize("noise", ["inverse", "race"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_have_penalties_of_their_own(backend, noise):
    cond, uncond, weight, seen, counts = inputs()
    penalty = torch.tensor([1.0, 1.3, 2.0, 0.5, 5.0, 1.0], device=DEVICE)
    more = {"guidance": 2.0, "step": 4, "noise": noise}
    seed = torch.arange(6, device=DEVICE)
    ranges = ((LO, 90), (100, HI))
    known = {"seen": seen, "seen_counts": counts, "repetition_penalty": penalty, "seed": seed}
    together = on(backend, cond, uncond, weight, ranges, **more, **known)
    for row in range(6):
        one = slice(row, row + 1)
        own = {name: value[one] for name, value in known.items()}
        assert on(backend, cond[one], uncond[one], weight, ranges, **more, **own) == together[row]
    legal = torch.tensor([[LO, HI]] * 6)
    whole = on(backend, cond, uncond, weight, (LO, HI), **more, **known)
    assert torch.equal(on(backend, cond, uncond, weight, legal, **more, **known), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_strong_penalty_never_repeats(backend):
    cond, _, weight, _, _ = inputs()
    answers = torch.full((6, 60), -1, dtype=torch.int64, device=DEVICE)
    for step in range(60):
        known = {"seen": answers, "seen_counts": torch.full((6,), step, device=DEVICE), "repetition_penalty": 1e30}
        answers[:, step] = on(
            backend, cond, None, weight, (LO, LO + 80), guidance=1.0, temperature=0.0, seed=0, step=step, **known
        )
    # logits that are not above 0 are pushed down as others are pulled to 0; so all are met once
    positive = ((cond @ weight[LO : LO + 80].T) > 0).sum(1)
    for row, count in zip(answers.tolist(), positive.tolist(), strict=True):
        first = row[: min(60, count)]
        assert len(set(first)) == len(first)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_between_the_ranges_are_never_drawn(backend, guidance):
    cond, uncond, weight, seen, counts = inputs()
    known = {"seen": seen, "seen_counts": counts, "repetition_penalty": 1.3, "seed": torch.arange(6, device=DEVICE)}
    for step in range(20):
        ids = on(backend, cond, uncond, weight, ((LO, 30), (HI - 5, HI)), guidance=guidance, step=step, **known)
        assert (((ids >= LO) & (ids < 30)) | ((ids >= HI - 5) & (ids < HI))).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_counts_never_reach_beyond_the_ids_that_were_given(backend):
    cond, uncond, weight, seen, _ = inputs()
    settings = {"guidance": 2.0, "temperature": 0.0, "seed": 0, "step": 0, "repetition_penalty": 1e6}
    seen[:, 4:] = on(backend, cond, uncond, weight, (LO, HI), **settings, seen=seen[:, :4])[:, None]
    beyond = {"seen": seen[:, :4], "seen_counts": torch.full((6,), 40, device=DEVICE)}
    assert torch.equal(on(backend, cond, uncond, weight, (LO, HI), **settings, **beyond), seen[:, 4])


def test_bad_arguments():
    cond, uncond, weight, seen, counts = inputs()
    good = {"guidance": 2.0, "seed": 0, "step": 0}
    args = cond, uncond, weight, (LO, HI)
    with pytest.raises(ValueError, match="repetition_penalty must be finite and positive, got 0"):
        cfg_head_sample(*args, **good, repetition_penalty=0.0, seen=seen)
    for given, message in (
        ({"repetition_penalty": 1.1}, "needs seen ids and seen_counts"),
        ({"seen_counts": counts}, "needs seen ids and seen_counts"),
        ({"seen": seen[:2]}, r"shapes \(2, 40\) and \(2,\), they must be \[6, S\] and \[6\]"),
        ({"seen": seen.int()}, "seen is torch.int32"),
        ({"seen": seen, "repetition_penalty": torch.ones(2)}, r"repetition_penalty has shape \(2,\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            cfg_head_sample(*args, **good, **given)
    penalty = torch.tensor([1.0, 0.0, -1.0, torch.nan, torch.inf, 1.1], device=DEVICE)
    ids = cfg_head_sample(*args, **good, seen=seen, repetition_penalty=penalty)
    assert (ids < 0).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    cond, uncond, weight, seen, counts = inputs()
    numbers, second = (2.0, 1.0, 5, 0.9, 0.0, 1, 2), (1.0, 3, 1.0, None, None, None)
    args = (
        cond,
        uncond,
        weight,
        LO,
        HI,
        *numbers,
        *[None] * 7,
        None,
        None,
        "inverse",
        *second,
        1.2,
        None,
        seen,
        counts,
    )
    skip_unless_runs(cfg_head_sample_op, backend, *args)
    with use_backend(backend):
        torch.library.opcheck(cfg_head_sample_op.overload, args)
