"""Weights that are written to or replaced between runs."""

import gc

import pytest
import torch
from engine_cases import ask, run, small_engine, small_model

from illume_fast.engine.weights import Weights
from illume_fast.kernels import native

ASKED = [ask(i, guidance=(1.0, 2.0)[i % 2]) for i in range(4)]


def test_written_weights_make_kept_prompts_stale():
    model = small_model()
    engine = small_engine(model)
    request = ask(1, length=40)
    before = run(engine, [request])
    model.model.embed_tokens.weight.mul_(-1)
    assert run(engine, [request]) == run(small_engine(model), [request]) != before


@pytest.mark.skipif(native.missing is not None, reason="steps are recorded by the compiled extension")
@pytest.mark.parametrize("how", ["data", "parameter", "head"])
def test_recordings_do_not_outlive_the_weights_they_read(how):
    model, other = small_model(0), small_model(1)
    engine = small_engine(model)
    for _ in range(3):
        before = run(engine, ASKED)
    assert engine.graphs.replays
    if how == "head":
        model.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.clone(), requires_grad=False)
    elif how == "parameter":
        for mine, theirs in zip(model.modules(), other.modules(), strict=True):
            for name, values in theirs.named_parameters(recurse=False):
                setattr(mine, name, torch.nn.Parameter(values.clone(), requires_grad=False))
    else:
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data.clone()
    gc.collect()
    after = run(engine, ASKED)
    assert after == run(small_engine(model), ASKED)
    assert after != before


def test_a_replaced_weight_without_an_address_may_lie_elsewhere():
    """Quantised weights wrap other tensors, and say that they begin at 0."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model, other = small_model(0), small_model(1)
    for m in (model, other):
        quantize_(m.model.layers, Int8WeightOnlyConfig())
    weights = Weights(model)
    assert weights.look() == (True, True)
    assert weights.look() == (False, False)
    layer, its = model.model.layers[0].mlp, other.model.layers[0].mlp
    assert layer.down_proj.weight.data_ptr() == its.down_proj.weight.data_ptr()
    layer.down_proj.weight = its.down_proj.weight
    assert weights.look() == (True, True)


def test_recordings_outlive_what_leaves_weights_alone():
    engine = small_engine()
    run(engine, ASKED)
    run(engine, ASKED)
    recorded = engine.graphs.recorded
    run(engine, ASKED)
    run(engine, ASKED)
    assert engine.graphs.recorded == recorded
