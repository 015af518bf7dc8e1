"""Nothing grows: memory and threads after very many calls, those that fail among them.

20 000 calls in the quick suite, a million in `make test-all`.
"""

import ctypes
import gc
import os
import threading
from itertools import count, cycle
from pathlib import Path

import pytest
import torch
from engine_cases import ask, small_engine, small_model
from tiny_pipeline import tiny_pipeline

from illume_fast.engine import EngineConfig
from illume_fast.kernels import native
from illume_fast.kernels.paging import OutOfPages, PagePool
from illume_fast.ops import (
    PackedCodebook,
    add_rms_norm,
    cfg_head_sample,
    cfg_sample,
    code_statistics,
    codebook_ema,
    cross_entropy_within_ranges,
    decode_attention,
    gelu,
    linear,
    linear_cross_entropy,
    nearest_code,
    paged_append,
    paged_attention,
    paged_prefill_attention,
    qkv_linear,
    quantize,
    rms_norm,
    rope,
    swiglu,
    swiglu_linear,
)
from illume_fast.pipeline import Draw

C = ctypes.CDLL(None)
STATUS = Path("/proc/self/statm")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of the process from /proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ALLOWED_BYTES = 8 << 20  # an allocator keeps some; 20 000 calls that lose 512 bytes each lose more


def resident() -> int:
    """Bytes of this process in memory, but for what it has freed: that would hide what is lost later."""
    gc.collect()
    if hasattr(C, "malloc_trim"):
        C.malloc_trim(0)
    return int(STATUS.read_text().split()[1]) * PAGE_BYTES


def native_threads() -> int:
    """Threads of this process, those of OpenMP among them."""
    return len(os.listdir("/proc/self/task"))


def assert_steady(call, calls: int) -> None:
    """`call()` leaves neither memory nor threads behind; the first fifth of the calls may fill caches."""
    for _ in range(calls // 5):
        call()
    memory, threads, python_threads = resident(), native_threads(), threading.active_count()
    for _ in range(calls):
        call()
    grown = resident() - memory
    assert grown <= ALLOWED_BYTES, f"{grown} bytes more after {calls} calls, {grown / calls:.1f} each"
    assert native_threads() == threads
    assert threading.active_count() == python_threads


def in_turn(calls):
    """A function that makes the next of these calls each time."""
    turns = cycle(calls)
    return lambda: next(turns)()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def good_calls():
    """Every op, small; with gradients where there are any, and with codebooks that are new each time."""
    x, codes, labels = randn(6, 16), randn(70, 16, seed=1), torch.arange(6)
    rows, weight, many = randn(5, 96), randn(96, seed=2), randn(300, 16, seed=3)
    leaf, head = randn(6, 16).requires_grad_(), randn(70, 16, seed=1).requires_grad_()
    cond, uncond = randn(3, 200), randn(3, 200, seed=1)
    settings = {"guidance": 2.0, "top_k": 20, "top_p": 0.9, "seed": torch.arange(3), "step": 1}
    pages, table = [randn(6, 4, 2, 16, seed=s) for s in (4, 5)], torch.arange(6, dtype=torch.int32).view(2, 3)
    row, position = torch.tensor([0, 1]), torch.tensor([5, 9])
    k, angles = randn(2, 2, 16), randn(2, 8)
    packed, averages = PackedCodebook(codes), (torch.ones(6), randn(6, 16), randn(6, 16))

    def backward(loss):
        torch.autograd.grad(loss.sum(), [t for t in (leaf, head) if t.requires_grad], allow_unused=True)

    return [
        lambda: nearest_code(x, codes),
        lambda: nearest_code(x, packed),
        lambda: nearest_code(x, many[:100].clone(), "cosine"),
        lambda: PackedCodebook(codes, "dot"),
        lambda: code_statistics(many, labels.repeat(50), 6),
        lambda: cfg_sample(cond, uncond, **settings),
        lambda: cfg_head_sample(cond[:, :16], uncond[:, :16], codes, (3, 60), **settings),
        lambda: cfg_head_sample(
            cond[:, :16], None, codes, torch.tensor([[0, 9], [0, 9], [9, 70]]), **settings | {"guidance": 1.0}
        ),
        lambda: linear(x, codes),
        lambda: qkv_linear(x, codes, codes, codes[:7]),
        lambda: swiglu_linear(x, codes, codes),
        lambda: decode_attention(k, k, k, angles.cos(), angles.sin(), *pages, table, position, 0.25),
        lambda: rms_norm(rows, weight, 1e-6),
        lambda: add_rms_norm(rows, rows, weight, 1e-6),
        lambda: rope(k, k, angles.cos(), angles.sin()),
        lambda: swiglu(rows, rows),
        lambda: gelu(rows),
        lambda: paged_append(k, k, *pages, table, row, position),
        lambda: paged_attention(k, *pages, table, position, 0.25),
        lambda: paged_prefill_attention(k, *pages, table, row, position, 0.25),
        lambda: backward(linear_cross_entropy(leaf, head, labels)),
        lambda: backward(cross_entropy_within_ranges(leaf, head, labels, [(0, 3), (3, 70)])),
        lambda: backward(swiglu(leaf, leaf)),
        lambda: backward(gelu(leaf)),
        lambda: backward(rms_norm(leaf, head[0], 1e-6)),
        lambda: backward(linear(leaf, head)),
        lambda: backward(swiglu_linear(leaf, head, head)),
        lambda: codebook_ema(many, labels.repeat(50), *averages),
        lambda: backward(sum(part.sum() for part in quantize(leaf, head, labels, "rotation"))),
    ]


def failing_calls():
    """Calls that every layer refuses: the checks, the backends and the kernels."""
    x, codes, pages = randn(6, 16), randn(70, 16, seed=1), randn(6, 4, 2, 16)
    table, k = torch.arange(6, dtype=torch.int32).view(2, 3), randn(2, 2, 16)
    row, far = torch.tensor([0, 1]), torch.tensor([5, 12])
    calls = [
        lambda: nearest_code(x, codes[:, :7]),
        lambda: nearest_code(x, codes, "manhattan"),
        lambda: rms_norm(x, codes[0, :3], 1e-6),
        lambda: swiglu(x, x.double()),
        lambda: linear(x, codes, unknown=1),
        lambda: linear_cross_entropy(x, codes, torch.full((6,), 70)),
        lambda: cfg_sample(x, x, guidance="much", seed=1, step=2),
        lambda: paged_append(k, k, pages, pages.clone(), table, row, far),
        lambda: paged_attention(k, pages, pages, table - 1, row + 3, 0.25),
        lambda: paged_prefill_attention(k, pages, pages, table, row + 1, row, 0.25),
    ]

    def refused(call):
        with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
            call()

    return [lambda call=call: refused(call) for call in calls]


def use_a_pool() -> None:
    """A pool of its own: sequences that share pages, one that does not fit, some given back and some not."""
    pool = PagePool(16, 4)
    first = pool.new()
    pool.append(first, 18)
    second = pool.share_prefix(first, 10)
    pool.append(second, 7)
    third = pool.fork(second)
    pool.append(third, 3)
    for wrong, error in ((lambda: pool.append(third, 1000), OutOfPages), (lambda: pool.pages(99), ValueError)):
        with pytest.raises(error):
            wrong()
    pool.free(second)
    pool.check([first, third])


def test_calls_leave_nothing_behind():
    assert_steady(in_turn(good_calls()), 20_000)


def test_failed_calls_leave_nothing_behind():
    assert_steady(in_turn(failing_calls()), 10_000)


def test_page_pools_leave_nothing_behind():
    assert_steady(use_a_pool, 3_000)


def test_consumers_that_stop_leave_nothing_behind(tmp_path):
    """Answers of a pipeline taken one, two, three or four at a time from work without end."""
    pipe, taken = tiny_pipeline(tmp_path, EngineConfig(max_batch=4, cache_tokens=2048)), cycle(range(1, 5))

    def stop():
        tasks = (Draw(prompt=f"a dog {n % 5}", seed=n, samples=range(2)) for n in count())
        stream = pipe.generate_stream(tasks, on_partial=lambda draft: None, partial_every=9)
        for _ in range(next(taken)):
            assert next(stream).error is None
        stream.close()
        pipe.engine.check()

    assert_steady(stop, 25)


def test_engines_that_are_dropped_half_way_leave_nothing_behind():
    model = small_model()

    def drop():
        answers = small_engine(model).generate(ask(n % 7, guidance=2.0, n=2) for n in count())
        next(answers)

    assert_steady(drop, 40)


def test_a_leak_is_noticed():
    lost = []
    with pytest.raises(AssertionError, match="bytes more after 2000 calls"):
        assert_steady(lambda: lost.append(b"x" * (64 << 10)), 2000)  # more than earlier tests left free


def test_threads_left_behind_are_noticed():
    stop = threading.Event()

    def leave():
        threading.Thread(target=stop.wait, daemon=True).start()

    try:
        with pytest.raises(AssertionError):
            assert_steady(leave, 10)
    finally:
        stop.set()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("calls", [good_calls, failing_calls], ids=["good", "failing"])
def test_a_million_calls_leave_nothing_behind(calls):
    assert_steady(in_turn(calls()), 1_000_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
def test_a_hundred_thousand_pools_leave_nothing_behind():
    assert_steady(use_a_pool, 100_000)
