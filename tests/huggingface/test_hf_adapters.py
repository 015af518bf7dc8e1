"""LoRA by peft: what the engine draws follows the adapter, on and off, and is that of merged weights."""

import pytest
import torch
from hf_cases import ENGINE, SIZE, asks, load_tiny

pytest.importorskip("peft")
from peft import LoraConfig, PeftModel, get_peft_model

from illume_fast.pipeline import IllumePipeline

WORDS = ["a red heart", "a dog"]
SETTINGS = {"generation_mode": "image", "temperature": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """The folder of an adapter, made by peft, whose weights are large enough to change pictures."""
    model, _ = load_tiny(tiny_folder)
    targets = ["q_proj", "v_proj", "gate_proj", "down_proj"]
    made = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    folder = tmp_path_factory.mktemp("adapter")
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def parts(tiny_folder):
    model, processor = load_tiny(tiny_folder)
    return model, dict(processor(text=[asks(one) for one in WORDS], resolution=SIZE))


def test_pictures_follow_the_adapter(parts, adapter):
    model, given = parts
    plain = model.generate(**given, **SETTINGS)
    adapted = PeftModel.from_pretrained(model, adapter)
    drawn = adapted.generate(**given, **SETTINGS)
    assert not torch.equal(drawn, plain)
    with adapted.disable_adapter():
        assert torch.equal(adapted.generate(**given, **SETTINGS), plain)
    assert torch.equal(adapted.generate(**given, **SETTINGS), drawn)
    ids, mask = given["input_ids"], given["attention_mask"]
    scores = adapted(input_ids=ids, attention_mask=mask, labels=ids)
    merged = adapted.merge_and_unload()
    assert merged is model
    torch.testing.assert_close(merged(ids, mask).logits, scores.logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(merged.generate(**given, **SETTINGS), drawn)
    assert torch.isfinite(scores.loss)


def test_an_adapter_loaded_by_transformers(parts, adapter, tmp_path):
    model, given = parts
    plain = model.generate(**given, **SETTINGS)
    model.load_adapter(str(adapter))
    drawn = model.generate(**given, **SETTINGS)
    assert not torch.equal(drawn, plain)
    codes = IllumePipeline(model.checkpoint, ENGINE)(WORDS, temperature=0.0, seed=0, output_type="codes").images
    ends = [len(level.flatten()) for level in codes[0].levels]
    assert sum(ends) < drawn.shape[1]
    with pytest.raises(ValueError, match="the model carries an adapter"):
        model.save_pretrained(tmp_path)
    model.disable_adapters()
    assert torch.equal(model.generate(**given, **SETTINGS), plain)
    model.enable_adapters()
    assert torch.equal(model.generate(**given, **SETTINGS), drawn)


def test_a_second_adapter_beside_the_first(parts, adapter):
    model, given = parts
    adapted = PeftModel.from_pretrained(model, adapter)
    first = adapted.generate(**given, **SETTINGS)
    adapted.add_adapter("other", LoraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM"))
    adapted.set_adapter("other")
    other = adapted.generate(**given, **SETTINGS)
    adapted.set_adapter("default")
    assert torch.equal(adapted.generate(**given, **SETTINGS), first)
    assert not torch.equal(other, first)


@pytest.mark.parametrize("target", ["embed_tokens", "patch_embed.proj"])
def test_adapters_that_would_be_left_out(parts, target):
    model, given = parts
    made = get_peft_model(model, LoraConfig(r=2, target_modules=[target]))
    for call in (made.forward, made.generate):
        with pytest.raises(ValueError, match=r"merge_and_unload\(\) the adapter first"):
            call(**given)
    assert made.merge_and_unload().generate(**given, **SETTINGS).shape[0] == 2


def test_an_adapter_trains(parts):
    model, given = parts
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    ids, mask = given["input_ids"], given["attention_mask"]
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(3):
        loss = made(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert model.model.layers[0].self_attn.q_proj.base_layer.weight.grad is None
