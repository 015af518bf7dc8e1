"""Random calls of sampling: an id that was drawn is one that the filters keep, up to the rounding of logits."""

import torch
from random_inputs import DTYPES, Random
from random_tolerance import EPS, LARGE, TINY, exact
from sampling_oracle import mixed, survivors
from support import DEVICE

from illume_fast.ops import cfg_head_sample, cfg_probabilities, cfg_sample
from illume_fast.ops.cfg_sample import NOISES

OPTIONS = {
    "guidance": (1.0, 0.0, 3.0, 7.5, -1.0),
    "temperature": (1.0, 0.0, 0.7, 5.0),
    "top_k": (0, 1, 2, 10, 100, 1000),
    "top_p": (1.0, 0.9, 0.5, 0.0),
    "min_p": (0.0, 0.05, 1.0),
}
SECOND = {"then_temperature": (1.0, 0.5, 3.0), "then_top_k": (0, 1, 7, 500), "then_top_p": (1.0, 0.9, 0.3)}


def draws(r: Random, rows: int):
    """(settings as they are passed, and those of each row)."""
    given = {name: r.per_row(rows, options) for name, options in OPTIONS.items()}
    own = [
        {name: x[row].item() if isinstance(x, torch.Tensor) else x for name, x in given.items()} for row in range(rows)
    ]
    seed = r.integers(-(2**40), 2**40, rows).to(DEVICE)
    return {**given, "seed": seed, "step": r.number(0, 99), "noise": r.choice(NOISES)}, own


def check_cfg_sample(r: Random) -> None:
    dtype, rows, size = r.choice(DTYPES), r.size(6), r.size(huge=40_000)
    cond, uncond = (r.values(rows, size, dtype=dtype) for _ in range(2))
    given, own = draws(r, rows)
    ids = cfg_sample(cond, uncond, **given)
    assert ids.shape == (rows,)
    for row, (drawn, settings) in enumerate(zip(ids.tolist(), own, strict=True)):
        c, u = cond[row].float().cpu(), uncond[row].float().cpu()
        c, u = (u, u) if settings["guidance"] == 0 else (c, c) if settings["guidance"] == 1 else (c, u)
        z = torch.as_tensor(mixed(c, u, settings["guidance"]))
        z = torch.where((c == -torch.inf) | (u == -torch.inf), -torch.inf, z)
        broken = bool((~(c < torch.inf) | ~(u < torch.inf)).any())
        if bool((z.abs() > 3e38).logical_and(z.isfinite()).any()):
            continue  # more than float32 holds
        if broken or not size or not bool((z > -torch.inf).any()):
            assert drawn == -1
            continue
        assert 0 <= drawn < size
        # kept by the rule, or a hair's breadth from being kept
        loose = {
            "temperature": settings["temperature"],
            "top_k": settings["top_k"],
            "top_p": min(1.0, settings["top_p"] + 1e-5),
            "min_p": max(0.0, settings["min_p"] * 0.9999 - 1e-9),
        }
        alive, _ = survivors(z.numpy(), **loose)
        tolerance = 1e-5 * max(1.0, abs(float(z.max())))
        close = z[drawn] >= z[torch.as_tensor(alive)].min() - tolerance
        assert alive[drawn] or close, f"id {drawn} is not kept"


def check_cfg_probabilities(r: Random) -> None:
    dtype, rows, size = r.choice(DTYPES), r.size(6), r.size(huge=40_000)
    cond, uncond = (r.values(rows, size, dtype=dtype) for _ in range(2))
    drawing, _ = draws(r, rows)
    drawing |= {name: r.per_row(rows, options) for name, options in SECOND.items()}
    seed, step, noise = (drawing.pop(name) for name in ("seed", "step", "noise"))
    p = cfg_probabilities(cond, uncond, **drawing)
    ids = cfg_sample(cond, uncond, **drawing, seed=seed, step=step, noise=noise)
    assert p.shape == (rows, size)
    for drawn, own in zip(ids.tolist(), p, strict=True):
        assert (drawn == -1) == (bool(own.isnan().all()) or not size)
        if drawn >= 0:
            assert own[drawn] > 0, f"id {drawn} was drawn and has no probability"
            assert abs(float(own.sum()) - 1) < 1e-9


def check_cfg_head_sample(r: Random) -> None:
    dtype, held = r.choice(DTYPES), r.choice(DTYPES)
    rows, size, vocabulary = r.size(6), r.size(70), r.size(huge=20_000)
    cond, uncond, weight = (
        r.values(*shape, dtype=kind) for shape, kind in (((rows, size), dtype),) * 2 + (((vocabulary, size), held),)
    )
    given, own = draws(r, rows)
    ranges = torch.tensor(
        [sorted(r.number(0, vocabulary + 1) for _ in range(2)) for _ in range(rows)], dtype=torch.int64
    )
    ranges = ranges.view(rows, 2)
    if r.chance(0.5):
        ranges[:] = ranges[:1].clone()
        legal = tuple(ranges[0].tolist()) if rows else (0, vocabulary)
    else:
        legal = ranges
    ids = cfg_head_sample(cond, uncond, weight, legal, **given)
    assert ids.shape == (rows,)
    for row, (drawn, settings) in enumerate(zip(ids.tolist(), own, strict=True)):
        lo, hi = ranges[row].tolist()
        g, c, u, w = settings["guidance"], exact(cond[row]), exact(uncond[row]), exact(weight[lo:hi])
        mix = c if g == 1 else u if g == 0 else u + g * (c - u)
        apart = torch.zeros_like(mix) if g in (0, 1) else u.abs() + 2 * abs(g) * (c.abs() + u.abs())
        z, scale = w @ mix, w.abs() @ mix.abs()
        if drawn == -1:
            # some logit is NaN or +inf, or may be so in the narrower types; or there is none to draw
            room = mix.abs().max() < LARGE[held] and apart.max() < 1e37 if size else True
            assert hi == lo or not room or not bool((scale < LARGE[held]).all()), "a good row was refused"
            continue
        assert lo <= drawn < hi
        assert not (z.isnan() | (z == torch.inf)).any(), "a bad row was drawn from"
        error = (w.abs() @ (4 * 2**-24 * apart + 2 * EPS[held] * mix.abs() + TINY[held])) + (size + 4) * 2**-24 * scale
        error += 2 * EPS[held] * z.abs() + (size + 1) * 1e-37 + TINY[held]
        if DEVICE == "cuda":  # the product is torch's, which may round partial sums
            error += 2 * EPS[held] * scale
        error += 2e-38 * (mix.abs().sum() + w.abs().sum(1))  # subnormal bfloat16 numbers may count as zero
        if bool((scale < LARGE[held]).all()):  # what overflows may have either sign
            assert_kept(z, error, drawn - lo, **settings)


def assert_kept(z, error, drawn, guidance, temperature, top_k, top_p, min_p) -> None:
    """The filters may keep `drawn` where every logit may be off by `error`."""
    judged = z.isfinite() & error.isfinite()
    if not judged[drawn]:
        return
    reach = z[drawn] + error[drawn]
    larger = judged & (z - error > reach)
    if temperature == 0:
        assert not larger.any(), f"id {drawn} is not the largest"
        return
    if top_k > 0:
        assert int(larger.sum()) < top_k, f"id {drawn} is not among the {top_k} largest"
    best = (z - error)[judged].max()
    assert reach >= best + temperature * torch.log(torch.tensor(max(min_p * 0.999, 1e-300))), f"id {drawn}: min_p"
    if top_p < 1 and judged.all():
        # the least mass before it: what is surely larger at its least, all else at its most
        least = torch.where(larger, z - error, -torch.inf)
        most = z + error
        kept = most >= ((z - error).topk(top_k).values[-1] if 0 < top_k < len(z) else -torch.inf)
        top = most.max()
        before = ((least - top) / temperature).exp().sum()
        rest = (((most - top) / temperature).exp() * (kept & ~larger)).sum()
        assert before / (before + rest) <= top_p + 1e-5, f"id {drawn}: top_p"
