"""Kernels called from several Python threads and processes at once."""

import os
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from illume_fast.kernels import native
from illume_fast.ops import (
    cfg_sample,
    code_statistics,
    gelu,
    linear,
    linear_cross_entropy,
    nearest_code,
    paged_attention,
    rms_norm,
    rope,
    swiglu,
)

pytestmark = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls():
    """Every op on inputs large enough for several threads of its own."""
    x, codes, logits = randn(300, 24), randn(5000, 24, seed=1), randn(8, 9000, seed=2)
    wide, weight = randn(40, 1000, seed=3), randn(1000, seed=4)
    pages, table = randn(12, 16, 2, 32, seed=5), torch.arange(12, dtype=torch.int32).view(2, 6)
    lengths = torch.tensor([90, 33], dtype=torch.int32)
    heads, angles = randn(50, 8, 64, seed=7), randn(50, 32, seed=8)
    return {
        "nearest_code": lambda: nearest_code(x, codes),
        "cfg_sample": lambda: cfg_sample(
            logits, logits.flip(1), guidance=2.0, top_k=500, top_p=0.9, seed=torch.arange(8), step=1
        ),
        "linear": lambda: linear(x[:7], codes),
        "rms_norm": lambda: rms_norm(wide, weight, 1e-6),
        "swiglu": lambda: swiglu(wide, wide.flip(0)),
        "gelu": lambda: gelu(wide),
        "rope": lambda: rope(heads, heads, angles.cos(), angles.sin())[0],
        "code_statistics": lambda: code_statistics(wide, torch.arange(40) % 7, 9)[1],
        "linear_cross_entropy": lambda: linear_cross_entropy(x, codes, torch.arange(300), reduction="none"),
        "paged_attention": lambda: paged_attention(randn(2, 8, 32, seed=6), pages, pages, table, lengths, 0.2),
    }


def test_several_threads_get_what_one_gets():
    ops = calls()
    expected = {name: op() for name, op in ops.items()}
    names = [name for _ in range(40) for name in ops]
    with ThreadPoolExecutor(6) as pool:
        for name, result in zip(names, pool.map(lambda name: ops[name](), names), strict=True):
            assert torch.equal(result, expected[name]), name


def test_other_threads_run_while_a_kernel_does():
    x, codes = randn(4000, 64), randn(40000, 64, seed=1)
    started, done = threading.Event(), threading.Event()

    def search():
        started.set()
        nearest_code(x, codes)
        done.set()

    nearest_code(x[:1], codes)  # pack beforehand
    thread = threading.Thread(target=search)
    thread.start()
    started.wait()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    thread.join()
    assert turns >= 3, "nothing else ran while nearest_code did"


class Called(Dataset):
    """Calls an op in the worker that was asked for it."""

    def __init__(self):
        self.calls = list(calls().values())

    def __len__(self):
        return 4 * len(self.calls)

    def __getitem__(self, i):
        return self.calls[i % len(self.calls)]()


def test_a_forked_process_does_not_wait_for_threads_that_stayed_behind():
    x, codes = randn(2000, 8), randn(700, 8, seed=1)
    expected = nearest_code(x, codes)  # with all threads
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"equal" if torch.equal(nearest_code(x, codes), expected) else b"wrong")
        os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], 60)
        assert ready, "the child hangs"
        assert os.read(read, 5) == b"equal"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


def test_forked_workers_of_a_data_loader_can_call_the_kernels():
    data = Called()
    expected = [data[i] for i in range(len(data))]  # the parent's threads exist before the fork
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60, collate_fn=list)
    for _ in range(2):  # a second epoch forks again
        got = [result for batch in loader for result in batch]
        assert len(got) == len(expected)
        assert all(map(torch.equal, got, expected))
