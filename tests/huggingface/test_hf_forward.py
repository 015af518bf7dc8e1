"""forward(): logits and loss of recorded cases, padding on either side, training, the decoder under torch.compile."""

import json

import pytest
import torch
from golden_mllm import mllm_config, picture
from golden_vision import dual_vitok_config, read_case, read_weights
from hf_cases import load_tiny
from support import assert_matches
from torch._dynamo.utils import counters

from illume_fast.huggingface import IllumeConfig, IllumeForConditionalGeneration
from illume_fast.model.attention import CausalAttention
from illume_fast.model.checkpoint import Checkpoint, build
from illume_fast.model.generation_config import CheckpointConfig, GenerationConfig
from illume_fast.model.vocab import IMAGE_PLACEHOLDER


@pytest.fixture(scope="module")
def recorded(golden):
    """The recorded model as ours, and what was put in and came out."""
    folder, vision = golden("mllm_tiny"), golden("dualvitok_tiny")
    official, inputs, outputs = read_case(folder)
    sizes = dual_vitok_config(json.loads((vision / "config.json").read_text())["vq_model"]["config"])
    config = CheckpointConfig(mllm_config(official), sizes, GenerationConfig(((256, 256),)))
    core, tokenizer = build(config, "cpu")
    core.load_state_dict(read_weights(folder))
    checkpoint = Checkpoint(config, core.eval(), tokenizer.eval(), folder / "tokenizer.json")
    return IllumeForConditionalGeneration(IllumeConfig(config), checkpoint).eval(), official, inputs, outputs


def pictures_of(official, inputs, name):
    return [picture(inputs[f"image_u8.{i}"]) for i in official["samples"][name]["images"]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["und", "und2", "text", "t2i", "edit"])
def test_recorded_samples(recorded, name):
    model, official, inputs, outputs = recorded
    given = pictures_of(official, inputs, name)
    out = model(inputs[f"{name}.input_ids"][None], pixel_values=given, labels=inputs[f"{name}.labels"][None])
    logits = out.logits[0]
    if f"{name}.logits_positions" in outputs:
        logits = logits[outputs[f"{name}.logits_positions"]]
    assert_matches(logits, outputs[f"{name}.logits"], "logits", tolerance=1e-4)
    torch.testing.assert_close(out.loss, outputs[f"{name}.loss"], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_recorded_batch(recorded):
    """The official code pads to the left after pictures are in; a batch that was padded to the left comes back so."""
    model, official, inputs, outputs = recorded
    ids, labels = inputs["batch.input_ids"], inputs["batch.labels"]
    mask = inputs["batch.attention_mask"].bool()
    given = [image for name in official["samples"]["batch"]["samples"] for image in pictures_of(official, inputs, name)]
    right = model(ids, mask, images=given, labels=labels)
    torch.testing.assert_close(right.loss, outputs["batch.loss"], atol=2e-5, rtol=1e-5)
    left = [torch.stack([torch.cat([r[~m], r[m]]) for r, m in zip(x, mask, strict=True)]) for x in (ids, mask, labels)]
    out = model(left[0], left[1], images=given, labels=left[2])
    seen = outputs["batch.expanded_mask"].bool()[:, ::3]
    assert_matches(out.logits[:, ::3][seen], outputs["batch.logits_every3"][seen], "logits", tolerance=1e-4)
    assert torch.equal(out.loss, right.loss)


@torch.no_grad()
def test_padding_and_parts_of_the_logits(tiny):
    model, _ = tiny
    ids = torch.tensor([[0, 0, 7, 8, 9], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    whole = model(ids, mask).logits
    assert whole.shape == (2, 5, model.config.vocab_size)
    torch.testing.assert_close(whole[0, 2:], model(ids[:1, 2:]).logits[0])
    torch.testing.assert_close(model(ids, mask, logits_to_keep=1).logits, whole[:, -1:])
    flipped = model(ids[:, [2, 3, 4, 0, 1]], mask[:, [2, 3, 4, 0, 1]]).logits
    torch.testing.assert_close(flipped[0, :3], whole[0, 2:])
    assert model(ids[:1], mask[:1]).logits.shape[1] == 5
    assert len(model(ids, mask, return_dict=False)) == 1
    hf = model.core.logits(ids, mask.bool())
    torch.testing.assert_close(hf[mask.bool()], whole[mask.bool()])


def test_what_forward_refuses(tiny):
    model, _ = tiny
    ids = torch.tensor([[1, IMAGE_PLACEHOLDER, 2]])
    image = torch.zeros(1, 3, 32, 32)
    for given, message in (
        ({"input_ids": ids}, "1 image placeholders, but 0 pictures"),
        ({"input_ids": ids, "pixel_values": [image], "images": [image]}, "two names of one argument"),
        ({"input_ids": ids, "pixel_values": [image], "output_hidden_states": True}, "output_hidden_states is not"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "input_ids are needed"),
        ({"input_ids": ids[:, :1], "labels": ids}, "must have the shape of input_ids"),
        ({"input_ids": torch.ones(1, 2000, dtype=torch.int64)}, "row 0 is 2000 tokens long .*; the model takes 1024"),
        ({"input_ids": ids[:, :1], "labels": torch.tensor([[-100]])}, "every label of the batch is ignored"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**given)
    with pytest.raises(TypeError, match="position_ids"):
        model(ids, position_ids=ids)
    with pytest.raises(NotImplementedError, match="cannot be replaced or resized"):
        model.resize_token_embeddings(9)


def test_a_step_of_training_goes_through_pictures_too(tiny_folder):
    model, _ = load_tiny(tiny_folder)
    model.train()
    ids = torch.tensor([[1, IMAGE_PLACEHOLDER, 2, 3]])
    out = model(ids, pixel_values=torch.rand(1, 3, 32, 32), labels=ids.clamp(min=-100))
    out.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name in ("model.embed_tokens.weight", "model.mm_projector.projector_1.0.weight"):
        assert grads[name].abs().max() > 0
    assert grads["model.vision_tower.pixel_encoder.conv_in.weight"].abs().max() > 0


@pytest.mark.parametrize("grad", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_decoder_compiles_without_graph_breaks(tiny, grad):
    model, _ = tiny
    torch._dynamo.reset()
    counters.clear()
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    places = torch.arange(6).expand(2, 6)
    compiled = torch.compile(model.model, fullgraph=True, backend="aot_eager" if grad else "eager")
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(x, places, CausalAttention()), model.model(x, places, CausalAttention()))
        keep = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
        attend = CausalAttention(keep)
        torch.testing.assert_close(compiled(x, places, attend), model.model(x, places, attend))
    assert not counters["graph_break"]
    torch._dynamo.reset()
