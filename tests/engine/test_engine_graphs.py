"""Steps that are replayed: the same answers as without, and that they really are replayed."""

import gc

import numpy as np
import pytest
import torch
from engine_cases import PICTURE, SMALL, TEXT, ask, run, small_engine, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from illume_fast.engine.arena import Arena
from illume_fast.engine.recorder import NotRecordableError, record_on_cpu
from illume_fast.kernels import native
from illume_fast.ops import linear, use_backend

needs_kernels = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


def some_requests():
    return [
        ask(0, guidance=3.0), ask(1, n=3, guidance=2.0), ask(2, plan=SMALL), ask(3, plan=TEXT), ask(4, greedy=True),
        ask(5, guidance=0.0), ask(6, plan=TEXT, guidance=1.5), ask(7, length=41),
    ]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_replayed_answers_are_the_same(max_batch):
    model = small_model()
    expected = run(small_engine(model, max_batch=max_batch, graphs=False), some_requests())
    engine = small_engine(model, max_batch=max_batch, graphs=True)
    for _ in range(2):  # the second run finds its recordings made
        assert run(engine, some_requests()) == expected
    assert engine.graphs.refusal is None
    assert engine.graphs.replays


@needs_kernels
def test_every_step_of_a_shape_that_was_met_before_is_replayed():
    engine, steps = small_engine(graphs=True), len(PICTURE.draws) - 1  # the first draw comes with reading
    for _ in range(3):
        replays, recorded = engine.graphs.replays, engine.graphs.recorded
        list(engine.generate([ask(0)]))
    assert engine.graphs.recorded == recorded == len(engine.graphs)
    assert engine.graphs.replays == replays + steps


@needs_kernels
def test_tables_that_grow_make_recordings_anew():
    model = small_model()
    asked = [ask(1, plan=SMALL), ask(2, plan=PICTURE), ask(3, plan=TEXT)]
    engine = small_engine(model, graphs=True)
    for request in asked:
        assert run(engine, [request]) == run(small_engine(model, graphs=False), [request])
    both = [ask(4, plan=SMALL, n=3), ask(5, plan=PICTURE)]
    fresh = small_engine(model, graphs=True, max_batch=2)
    assert run(fresh, both) == run(small_engine(model, graphs=False), both)


@needs_kernels
def test_what_cannot_be_recorded_is_told_or_refused():
    model = small_model()
    expected = run(small_engine(model, graphs=False), some_requests())
    with use_backend("reference"):
        engine = small_engine(model)
        assert run(engine, some_requests()).keys() == expected.keys()
        assert "torch's own" in engine.graphs.refusal
        with pytest.raises(RuntimeError, match=r"EngineConfig\(graphs=True\): .* torch's own"):
            run(small_engine(model, graphs=True), some_requests())


@needs_kernels
def test_a_model_with_a_hook_is_run_as_it_is():
    model, seen = small_model(), []
    expected = run(small_engine(model), [ask(0, guidance=2.0)])
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, args, out: seen.append(len(out)) or out * 1)
    engine = small_engine(model)
    assert run(engine, [ask(0, guidance=2.0)]) == expected
    assert engine.graphs.replays == 0
    assert len(seen) >= len(PICTURE.draws) - 1


@needs_kernels
def test_a_recording_refuses_what_it_would_leave_out():
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    with torch.no_grad():
        recording = record_on_cpu(lambda: linear(x, weight).view(2, 6)[:1].t(), Arena())
        assert len(recording) == 1
        for step in (lambda: linear(x, weight) + 1, lambda: linear(x.t().contiguous().t(), weight), lambda: x.add_(1)):
            with pytest.raises(NotRecordableError, match="aten::"):
                record_on_cpu(step, Arena())


@needs_kernels
def test_a_replay_works_on_what_stands_there_now():
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    kept = []
    with torch.no_grad():
        recording = record_on_cpu(lambda: kept.append(linear(linear(x, weight), weight.t()[:4, :4].t()[:4])), Arena())
        for _ in range(3):
            x.copy_(torch.randn(3, 8))
            recording.replay()
            assert torch.equal(kept[0], linear(linear(x, weight), weight[:, :4]))


@settings(deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=40))
def test_the_arena_never_gives_the_same_memory_twice(sizes):
    arena, held = Arena(), []
    for number, (size, keep) in enumerate(sizes):
        tensor = arena.empty((size,), torch.int32)
        tensor.fill_(number)
        if keep:
            held.append((number, tensor.view(-1)[: size // 2]))  # a view keeps the whole
        del tensor
        for mark, part in held:
            assert bool((part == mark).all())
        assert arena.empty((0, 3), torch.bfloat16).shape == (0, 3)
    held.clear()
    gc.collect()
    before = arena.bytes
    arena.empty((1,), torch.uint8)
    assert arena.bytes == max(before, 1)


@needs_kernels
def test_time_in_kernels_is_counted():
    before = native.kernel_seconds()
    x = torch.from_numpy(np.ones((64, 512), np.float32))
    linear(x, torch.ones(512, 512))
    assert before < native.kernel_seconds() < before + 10
