"""Weights of 8 and 4 bits by from_pretrained, and what does not suit them."""

from dataclasses import replace

import pytest
import torch
from hf_cases import SIZE, asks, load_tiny
from transformers import TorchAoConfig

from illume_fast.model.checkpoint import build, read_config
from illume_fast.model.decoder import CausalLM
from illume_fast.model.quantized import is_quantized, quantize, quantize_by

torchao = pytest.importorskip("torchao.quantization")


def causal(folder, **changes) -> CausalLM:
    """A decoder whose widths suit groups of 32."""
    config = replace(read_config(folder).model.decoder, intermediate_size=64, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CausalLM(config).eval()


EIGHT = torchao.Int8WeightOnlyConfig(version=2)


@pytest.mark.parametrize("kind", ["int8", TorchAoConfig(EIGHT), EIGHT], ids=["name", "TorchAoConfig", "torchao"])
def test_eight_bits_draw(tiny_folder, tmp_path, kind):
    model, processor = load_tiny(tiny_folder, quantization_config=kind)
    assert is_quantized(model.core)
    given = processor(text=[asks("a dog")], resolution=SIZE)
    out = model.generate(**given, generation_mode="image", seed=0)
    assert len(processor.parse_text_image(out[0])[1]) == 1
    with pytest.raises(ValueError, match="the weights are quantised"):
        model.save_pretrained(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("kind, dtype, most", [
    ("int8", torch.float32, 0.02), ("int4", torch.float32, 0.25), ("int4", torch.bfloat16, 0.25),
])  # fmt: skip
def test_logits_are_near_those_of_whole_weights(tiny_folder, kind, dtype, most):
    model = causal(tiny_folder).to(dtype)
    ids = torch.arange(12)[None]
    exact = model.logits(ids).float()
    quantize(model, kind)
    error = ((model.logits(ids).float() - exact).norm() / exact.norm()).item()
    print(f"{kind} {dtype}: relative error {error:.1e}")
    assert 1e-4 < error < most


def test_what_cannot_be_quantised(tiny_folder):
    wide = causal(tiny_folder)
    for config, message in (
        (torch.int8, "quantization_config dtype is not supported; allowed are 'int8', 'int4'"),
        (TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=["x"]), "modules_to_not_convert is not"),
        (
            TorchAoConfig(torchao.Int8WeightOnlyConfig(), include_input_output_embeddings=True),
            "the decoder's layers alone",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_by(wide, config)
    with pytest.raises(ValueError, match="quantize='int2' is not known"):
        quantize(wide, "int2")
    with pytest.raises(ValueError, match=r"int4' on cpu takes weights of torch.bfloat16, torch.float32"):
        quantize(wide.half(), "int4")
    assert not is_quantized(wide)
    with pytest.raises(ValueError, match=r"needs widths that are multiples of 32; here they are \[32, 48\]"):
        load_tiny(tiny_folder, quantization_config="int4")
    odd, _ = build(read_config(tiny_folder), "cpu")
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    with pytest.raises(
        ValueError, match=r"left \d+ weights as they were, layers\.0\.mlp\.down_proj\.weight among them"
    ):
        quantize_by(odd, PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False))
