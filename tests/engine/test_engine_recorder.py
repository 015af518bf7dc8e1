"""Recordings that are broken off, put into each other, made by other threads, or outlive what they were made with."""

import gc
import threading
import weakref

import pytest
import torch

from illume_fast.engine.arena import Arena
from illume_fast.engine.recorder import record_on_cpu
from illume_fast.kernels import native
from illume_fast.ops import linear
from illume_fast.ops.gather_rows import gather_rows

pytestmark = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, WEIGHT = randn(3, 8), randn(8, 8, seed=1)


def one_call():
    return record_on_cpu(lambda: linear(X, WEIGHT), Arena())


def test_a_step_that_breaks_off_leaves_no_recording_behind():
    def breaks_off():
        linear(X, WEIGHT)
        raise KeyError("half way")

    for _ in range(3):
        with pytest.raises(KeyError, match="half way"):
            record_on_cpu(breaks_off, Arena())
        assert len(one_call()) == 1
    assert torch.equal((X + 1) - 1, (X + 1) - 1), "torch's own ops are free again"


def test_one_recording_at_a_time():
    with pytest.raises(RuntimeError, match="this thread records already"):
        record_on_cpu(one_call, Arena())
    ready = one_call()
    with pytest.raises(RuntimeError, match="replayed while this thread records another"):
        record_on_cpu(ready.replay, Arena())
    with pytest.raises(RuntimeError, match="replayed while this thread records another"):
        record_on_cpu(ready.profile, Arena())
    ready.replay()
    assert len(ready) == len(one_call()) == 1


def test_what_other_threads_call_is_not_recorded():
    lengths = []

    def elsewhere():
        with torch.no_grad():
            linear(X, WEIGHT)
            lengths.append(len(one_call()))

    def step():
        linear(X, WEIGHT)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
        linear(X, WEIGHT)

    assert len(record_on_cpu(step, Arena())) == 2
    assert lengths == [1]


def test_nothing_recorded_is_nothing_replayed():
    recording = record_on_cpu(lambda: None, Arena())
    recording.replay()
    assert len(recording) == 0
    assert recording.profile() == []


def test_a_recording_keeps_the_memory_it_works_in():
    """The arena's other users are gone, and the step's own tensor in the middle is gone since it was recorded."""
    arena, address = Arena(), []
    expected = linear(linear(X, WEIGHT), WEIGHT)
    recording = record_on_cpu(lambda: address.append(linear(linear(X, WEIGHT), WEIGHT).data_ptr()), arena)
    watched = weakref.ref(arena)
    buffers = arena._buffers
    del arena
    gc.collect()
    assert watched() is not None
    for buffer in buffers:
        buffer.fill(0xFF)
    recording.replay()
    (last,) = (b for b in buffers if b.ctypes.data == address[0])
    assert torch.equal(torch.from_numpy(last[:96]).view(torch.float32).view(3, 8), expected)
    del recording
    gc.collect()
    assert watched() is None


def test_a_replay_that_cannot_work_names_the_kernel_and_can_be_made_again():
    rows, after = torch.tensor([2, 0]), []
    recording = record_on_cpu(lambda: after.append(linear(gather_rows(X, rows), WEIGHT)), Arena())
    rows[1] = 99
    before = after[0].clone()
    for replay in (recording.replay, recording.profile, recording.replay):
        with pytest.raises(RuntimeError, match="gather_rows: an argument was out of range"):
            replay()
    assert torch.equal(after[0], before), "what comes after the kernel that failed is not called"
    rows[1] = 1
    assert [name for name, _ in recording.profile()] == ["gather_rows", "linear"]
    assert torch.equal(after[0], linear(X[[2, 1]], WEIGHT))
