"""Bit for bit: hidden states that draw a token do not depend on the batch, and what makes sure of it."""

import pytest
import torch
from engine_cases import TEXT, ask, features_of, ids_of, run, small_engine, small_model
from support import on_threads

from illume_fast.engine import Segment, engine, step
from illume_fast.engine.invariance import Product, products_of, row_multiple
from illume_fast.kernels import native
from illume_fast.ops import linear


@pytest.fixture
def hidden(monkeypatch):
    """hidden(engine, requests): the bits of both branches behind every draw, by seed and step.

    Skips where attention has no kernel: the reference reads all rows to the longest one's length.
    """
    if native.missing is not None:
        pytest.skip(native.missing)
    seen: dict[tuple[int, int], bytes] = {}
    sample = step.cfg_head_sample

    def spy(conditional, unconditional, *args, seed, step, **rest):
        other = conditional if unconditional is None else unconditional
        for c, u, *key in zip(conditional, other, seed.tolist(), step.tolist(), strict=True):
            if key[0] >= 0:  # else it fills the batch up
                seen[tuple(key)] = c.numpy().tobytes() + u.numpy().tobytes()
        return sample(conditional, unconditional, *args, seed=seed, step=step, **rest)

    monkeypatch.setattr(step, "cfg_head_sample", spy)

    def hidden(engine, requests):
        seen.clear()
        run(engine, requests)
        return dict(seen)

    return hidden


def requests():
    picture = (Segment(ids_of(70, 3)), features_of("a", 9), Segment(ids_of(71, 2)))
    return [
        ask(0, guidance=3.0),
        ask(1, n=2, guidance=2.0),
        ask(2, length=41),
        ask(3, plan=TEXT),
        ask(4, prompt=picture, guidance=2.0),
        ask(5, length=7),
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_hidden_states_are_the_same_to_the_bit(hidden, threads):
    with on_threads(threads):
        model = small_model(intermediate_size=200, hidden_size=96)
        asked = [r for r in requests() if r.id != "request 4"]
        alone = {}
        for request in asked:
            alone |= hidden(small_engine(model, max_batch=1, graphs=False), [request])
        for batch in range(1, 9):
            assert hidden(small_engine(model, max_batch=batch, graphs=False), asked[::-1]) == alone, f"batch {batch}"


def test_hidden_states_do_not_depend_on_reading_or_sharing(hidden):
    model = small_model()
    expected = hidden(small_engine(model, graphs=False), requests())
    for changes in ({"read_tokens": 5}, {"read_tokens": 13, "page_size": 8}, {"page_size": 32, "cache_tokens": 640}):
        assert hidden(small_engine(model, graphs=False, **changes), requests()) == expected, changes


@pytest.mark.parametrize("multiple", [8, 32])
def test_filled_up_batches_have_the_same_bits(hidden, monkeypatch, multiple):
    """As on machines whose matrix products need it."""
    model = small_model()
    expected = hidden(small_engine(model, graphs=False), requests())
    monkeypatch.setattr(engine, "row_multiple", lambda *args: multiple)
    filled, sizes = small_engine(model, graphs=False), set()
    forward, sample = model.decoder.forward, step.cfg_head_sample

    def decode(embeds, *args):
        sizes.add(len(embeds))
        return forward(embeds, *args)

    def draw(conditional, *args, **rest):
        sizes.add(len(conditional))
        return sample(conditional, *args, **rest)

    monkeypatch.setattr(model.decoder, "forward", decode)
    monkeypatch.setattr(step, "cfg_head_sample", draw)
    assert hidden(filled, requests()) == expected
    assert all(size % multiple == 0 for size in sizes)


def test_bfloat16_answers_do_not_depend_on_the_batch():
    model = small_model().bfloat16()
    asked = requests()[:2] + requests()[3:]
    alone = {}
    for request in asked:
        alone |= run(small_engine(model, max_batch=1), [request])
    assert run(small_engine(model), asked[::-1]) == alone


def moody(liked):
    """A product that adds up in another order unless the rows come in a multiple of `liked`."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    return Product(lambda x: linear(x, weight) * (1 + len(x) % liked * 2**-20), 8, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("liked", "found"), [(1, 1), (2, 8), (4, 8), (8, 8), (16, 16), (32, 32)])
def test_the_smallest_multiple_that_is_enough_is_found(liked, found):
    assert row_multiple([moody(1), moody(liked)], 128) == found


def test_a_machine_on_which_nothing_helps_is_told():
    with pytest.raises(RuntimeError, match=r"use EngineConfig\(invariant=False\)"):
        row_multiple([moody(10**9)], 128)


def test_each_kind_of_product_is_tried_once():
    model = small_model(num_hidden_layers=4)
    # queries, keys and values, output, gate and up, down; the head
    assert sorted(p.width for p in products_of(model.decoder, model.head_weight)) == [32, 32, 32, 32, 32, 48]
    assert [p.width for p in products_of(lambda: None, model.head_weight)] == [32]


def test_without_invariance_batches_are_not_filled():
    assert small_engine(invariant=False).row_multiple == 1
    assert small_engine().row_multiple in ((1,) if native.missing is None else (1, 8, 16, 32))
