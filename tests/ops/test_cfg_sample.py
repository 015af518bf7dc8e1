from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling_cases import FILTERS, assert_rows_do_not_see_each_other, drawn_by
from sampling_oracle import drawn, survivors
from support import DEVICE, backend_names, backends_here, skip_unless_runs

from illume_fast.bench.inputs import logits
from illume_fast.ops import cfg_sample, use_backend
from illume_fast.ops.cfg_filters import MAX_VOCABULARY
from illume_fast.ops.cfg_sample import cfg_sample_op
from illume_fast.ops.philox import philox, scaled

BACKENDS = backend_names(cfg_sample_op)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")


def on(backend, cond, uncond, **settings):
    numbers = (1.0, 1.0, 0, 1.0, 0.0, 0, 0)
    skip_unless_runs(cfg_sample_op, backend, cond, uncond, *numbers, *([None] * 7))
    with use_backend(backend):
        return cfg_sample(cond, uncond, **settings)


def expected(*args, **settings):
    return drawn_by(drawn, *args, **settings)


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 40000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_what_a_sort_in_double_draws(backend, dtype, size, settings):
    cond, uncond = (t.to(DEVICE) for t in logits(3, size, dtype))
    ids = on(backend, cond, uncond, guidance=3.0, seed=11, step=5, **settings)
    assert ids.tolist() == expected(cond, uncond, 3.0, 11, 5, **settings)


@pytest.mark.parametrize("settings", FILTERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, settings):
    for size in (1, 15, 16, 33, 4099, 9000):
        cond, uncond = logits(4, size, dtype, seed=size)
        with use_backend("cpu"):
            ids = cfg_sample(cond, uncond, guidance=2.5, seed=3, step=9, **settings)
        assert ids.tolist() == expected(cond, uncond, 2.5, 3, 9, **settings), (isa, size)


@given(
    values=st.lists(st.sampled_from([-INF, -3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 2.5]), min_size=1, max_size=60),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0, 1e-40, 1e38]),
    top_k=st.integers(0, 70),
    top_p=st.sampled_from([0.0, 0.31, 0.77, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.4, 1.0]),
    seed=st.integers(-(2**63), 2**64 - 1),
    step=st.integers(0, 2**64 - 1),
)
def test_survivors_with_ties_and_masks(values, temperature, top_k, top_p, min_p, seed, step):
    z = np.float32(values)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for backend in backends_here(cfg_sample_op):
        row = torch.tensor(z, device=DEVICE)[None]
        got = int(on(backend, row, None, guidance=1.0, seed=seed, step=step, **settings))
        if not (z > -np.inf).any():
            assert got == -1
            continue
        alive, p = survivors(z, **settings)
        assert alive[got], f"{backend}: {got} is not among {np.flatnonzero(alive)}"
        assert got == drawn(p, seed % 2**64, step)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distribution(backend):
    """Chi-square over 20 000 draws, one row per seed; the 99.99 % point for 9 degrees of freedom is 33.7."""
    z = torch.linspace(-1, 2, 12)
    draws = 20000
    ids = on(
        backend,
        z.expand(draws, 12).to(DEVICE),
        None,
        guidance=1.0,
        temperature=0.8,
        top_k=10,
        seed=torch.arange(draws, device=DEVICE),
        step=1,
    )
    _, p = survivors(z.numpy(), 0.8, 10, 1.0, 0.0)
    seen = np.bincount(ids.cpu().numpy(), minlength=12)
    assert seen[p == 0].sum() == 0
    wanted = p[p > 0] * draws
    assert ((seen[p > 0] - wanted) ** 2 / wanted).sum() < 33.7


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_do_not_see_each_other(backend):
    assert_rows_do_not_see_each_other(partial(on, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_guidance_one_and_zero_look_at_one_branch(backend):
    cond, uncond = (t.to(DEVICE) for t in logits(5, 300))
    same = {"seed": 1, "step": 2, "top_k": 40}
    broken = torch.full_like(cond, NAN)
    alone = [on(backend, t, None, guidance=1.0, **same) for t in (cond, uncond)]
    assert torch.equal(on(backend, cond, broken, guidance=1.0, **same), alone[0])
    assert torch.equal(on(backend, broken, uncond, guidance=0.0, **same), alone[1])
    mix = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], device=DEVICE)
    assert torch.equal(on(backend, cond, uncond, guidance=mix, **same), torch.where(mix == 1, *alone))


@pytest.mark.parametrize("size", [5, 5000])
@pytest.mark.parametrize("branch", ["cond", "uncond"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_rows_answer_minus_one(backend, branch, size):
    cond, uncond = (t.to(DEVICE) for t in logits(7, size))
    rows = cond if branch == "cond" else uncond
    rows[1, size - 1] = NAN
    rows[2, 0] = INF
    rows[3] = -INF
    rows[4, 1:] = -INF  # one token left
    rows[5, size // 2] = -NAN
    for guidance in (2.0, -1.0):
        ids = on(backend, cond, uncond, guidance=guidance, seed=3, step=0, top_k=3)
        assert [i == -1 for i in ids.tolist()] == [False, True, True, True, False, True, False]
        assert ids[4] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_overflow_is_defined(backend):
    cond = torch.tensor([[3e38, 0.0], [-3e38, 0.0], [3e38, 3e38]], device=DEVICE)
    ids = on(backend, cond, -cond, guidance=3.0, seed=0, step=0)
    assert ids.tolist() == [-1, 1, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_out_of_range_in_tensors(backend):
    cond, uncond = (t.to(DEVICE) for t in logits(3, 20))
    for name, bad in (("guidance", NAN), ("temperature", -1.0), ("top_p", 1.5), ("min_p", NAN), ("top_k", -1)):
        settings = {"guidance": 2.0, "seed": 0, "step": 0}
        settings[name] = torch.tensor([1, bad, 1], device=DEVICE)
        assert (on(backend, cond, uncond, **settings) == -1).tolist() == [False, True, False], name


def test_numbers_out_of_range_are_refused():
    cond, uncond = logits(2, 8)
    good = {"guidance": 2.0, "seed": 0, "step": 0}
    for name, bad, message in (
        ("guidance", INF, "guidance must be finite, got inf"),
        ("temperature", -0.5, "temperature must be 0 .* got -0.5"),
        ("top_k", -1, "top_k must be 0"),
        ("top_p", 1.1, r"top_p must lie in \[0, 1\], got 1.1"),
        ("min_p", NAN, r"min_p must lie in \[0, 1\], got nan"),
        ("seed", 1 << 64, "seed must fit in 64 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            cfg_sample(cond, uncond, **{**good, name: bad})
    with pytest.raises(ValueError, match="needs the unconditional branch"):
        cfg_sample(cond, None, **good)
    with pytest.raises(TypeError, match=r"seed is torch\.float32"):
        cfg_sample(cond, uncond, **{**good, "seed": torch.zeros(2)})


def test_bad_arguments_name_both_values():
    cond, uncond = logits(4, 8)
    good = {"guidance": 2.0, "seed": 0, "step": 0}
    for args, extra, message in (
        ((cond, uncond[:3]), {}, r"shapes \(4, 8\) and \(3, 8\) differ"),
        ((cond, uncond.half()), {}, "dtypes torch.float32 and torch.float16 differ"),
        ((cond.double(), uncond.double()), {}, "cond is torch.float64"),
        ((cond[0], uncond[0]), {}, r"must be \[B, V\]"),
        ((cond, uncond), {"top_p": torch.ones(3)}, r"top_p has shape \(3,\), it must be \[4\]"),
        ((torch.empty(1, MAX_VOCABULARY + 1, device="meta"), None), {"guidance": 1.0}, "at most 2097152"),
    ):
        with pytest.raises(RuntimeError, match=message):
            cfg_sample(*args, **{**good, **extra})


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend, shape):
    cond = torch.zeros(shape, device=DEVICE)
    assert on(backend, cond, cond, guidance=2.0, seed=0, step=0).tolist() == [-1] * shape[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend):
    fused = torch.cat(logits(6, 500), 1).to(DEVICE)
    cond, uncond = fused[:, :500], fused[:, 500:]
    settings = {"guidance": 2.0, "seed": 5, "step": 1, "top_p": 0.9}
    plain = on(backend, cond.contiguous(), uncond.contiguous(), **settings)
    assert torch.equal(on(backend, cond, uncond, **settings), plain)
    columns = fused.T.contiguous().T
    assert torch.equal(on(backend, columns[:, :500], columns[:, 500:], **settings), plain)
    assert torch.equal(on(backend, cond[::2], uncond[::2], **settings), plain[::2])


def test_seeds_of_every_integer_type():
    cond, _ = logits(2, 100)
    big = 2**64 - 5
    wanted = cfg_sample(cond, None, guidance=1.0, seed=big, step=1)
    for seed in (torch.tensor([big, big], dtype=torch.uint64), torch.tensor([-5, -5]), -5):
        assert torch.equal(cfg_sample(cond, None, guidance=1.0, seed=seed, step=1), wanted)


def test_philox_known_answers():
    """From the test vectors of Random123; counters with zero high words can be said here."""
    zero = torch.zeros(1, dtype=torch.int64)
    assert [int(w) for w in philox(zero, zero)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@given(low=st.integers(0, 2**32 - 1), high=st.integers(0, 2**32 - 1), total=st.integers(0, 2**62 - 1))
def test_scaled_is_the_high_word_of_a_product(low, high, total):
    got = scaled(*(torch.tensor([v]) for v in (low, high, total)))
    assert int(got) == (high << 32 | low) * total >> 64


@pytest.mark.parametrize("backend", BACKENDS)
def test_registration_is_complete(backend):
    cond, uncond = (t.to(DEVICE) for t in logits(3, 40))
    numbers, rows = (2.0, 1.0, 5, 0.9, 0.0, 1, 2), [None] * 7
    skip_unless_runs(cfg_sample_op, backend, cond, uncond, *numbers, *rows)
    with use_backend(backend):
        torch.library.opcheck(cfg_sample_op.overload, (cond, uncond, *numbers, *rows))
        rows[0] = torch.ones(3, device=DEVICE)
        torch.library.opcheck(cfg_sample_op.overload, (cond, None, *numbers, *rows))


def test_compiles_without_graph_breaks():
    def step(cond, uncond, temperature):
        return cfg_sample(cond, uncond, guidance=2.0, temperature=temperature, top_k=5, seed=1, step=3) + 1

    args = (*logits(4, 50), torch.ones(4))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), step(*args))
