"""Weights of 8 and 4 bits: valid answers, near those of whole weights, from a quarter or a sixth of the bytes."""

import pytest
import torch

from illume_fast.engine import EngineConfig
from illume_fast.pipeline import IllumePipeline

PROMPTS = ["a red heart", "a yellow star"]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"quantize='int3' is not known; allowed are 'int8', 'int4' and None"):
        IllumePipeline.from_pretrained("demo", quantize="int3")


def weights_of(pipeline):
    layers = pipeline.checkpoint.model.decoder.layers
    return sum(getattr(p, "qdata", p).nbytes + getattr(p, "scale", p[:0]).nbytes for p in layers.parameters())


@pytest.mark.slow
def test_demo_pictures_from_eight_bits():
    pytest.importorskip("torchao")
    exact = IllumePipeline.from_pretrained("demo")
    small = IllumePipeline.from_pretrained("demo", quantize="int8")
    assert weights_of(small) < 0.3 * weights_of(exact)
    drawn = [
        pipeline(PROMPTS, temperature=0.0, guidance_scale=2.0, seed=0, output_type="codes").images
        for pipeline in (exact, small)
    ]
    agree = [
        (getattr(a, level) == getattr(b, level)).float().mean().item()
        for a, b in zip(*drawn, strict=True)
        for level in ("semantic", "pixel")
    ]
    print(f"greedy tokens that agree, semantic and pixel by picture: {agree}; bytes {weights_of(small)}")
    assert min(agree) > 0.5
    assert small.decode(drawn[1]).shape == (2, 3, 64, 64)
    assert "torch's own" in small.engine.graphs.refusal
    with pytest.raises(RuntimeError, match=r"EngineConfig\(graphs=True\)"):
        IllumePipeline(small.checkpoint, EngineConfig(graphs=True))(PROMPTS[0], seed=0)


@pytest.mark.slow
def test_demo_pictures_from_four_bits():
    pytest.importorskip("torchao")
    small = IllumePipeline.from_pretrained("demo", quantize="int4")
    layers = small.checkpoint.model.decoder.layers
    assert sum(p.qdata.nbytes + p.scale_and_zero.nbytes for p in layers.parameters() if hasattr(p, "qdata")) < 2.6e6
    exact = IllumePipeline.from_pretrained("demo")
    settings = {"temperature": 0.0, "guidance_scale": 2.0, "seed": 0, "output_type": "codes"}
    for a, b in zip(exact(PROMPTS, **settings).images, small(PROMPTS, **settings).images, strict=True):
        agree = [(x == y).float().mean().item() for x, y in zip(a.levels, b.levels, strict=True)]
        print(f"greedy tokens that agree, semantic and pixel: {agree}")
        assert max(agree) > 0.3
    assert "_weight_int4pack_mm_for_cpu" in small.engine.graphs.refusal


@pytest.mark.slow
def test_products_are_near_those_of_whole_weights():
    pytest.importorskip("torchao")
    exact, small = (IllumePipeline.from_pretrained("demo", quantize=kind) for kind in (None, "int8"))
    x = torch.randn(7, exact.engine.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (p.checkpoint.model.decoder.layers[0].mlp(x) for p in (exact, small))
    assert 1e-4 < (a - b).norm() / a.norm() < 0.02
    heads = [p.checkpoint.model.head_weight for p in (exact, small)]
    assert torch.equal(*heads)


@pytest.mark.slow
def test_answers_in_words_from_eight_bits():
    pytest.importorskip("torchao")
    small = IllumePipeline.from_pretrained("demo", quantize="int8")
    (picture,) = small("a red heart", seed=1).images
    assert small.chat("What is this?", picture)
