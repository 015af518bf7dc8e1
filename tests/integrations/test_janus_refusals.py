"""What cannot run on our engine is refused by name, when it is accelerated and at every call."""

import copy
import pickle

import pytest
import torch
from janus_cases import SHAPE, draw, small
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from illume_fast.bench.models.janus import janus_config, janus_prompts
from illume_fast.integrations import janus


class Adapted(nn.Linear):
    """An adapter, as far as the check can see."""


def swap_a_projection(model):
    old = model.model.language_model.layers[1].self_attn.q_proj
    model.model.language_model.layers[1].self_attn.q_proj = Adapted(
        old.in_features, old.out_features, bias=False
    ).eval()


def hook_an_output(model):
    model.model.language_model.layers[0].self_attn.register_forward_hook(lambda *args: None)


def hook_an_input(model):
    model.model.generation_head.register_forward_pre_hook(lambda *args: None)


def replace_a_forward(model):
    model.model.language_model.norm.forward = lambda x: x


def mix_dtypes(model):
    model.model.language_model.layers[1].to(torch.bfloat16)


def mix_dtypes_of_parts(model):
    model.model.generation_head.to(torch.bfloat16)


def wrap_a_parameter(model):
    class Packed(torch.Tensor):
        pass

    layer = model.model.language_model.layers[0].mlp.down_proj
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Packed), requires_grad=False)


def add_a_parameter(model):
    model.model.language_model.register_parameter("extra", nn.Parameter(torch.zeros(3)))


def turn_faster(model):
    model.model.language_model.rotary_emb.inv_freq.mul_(0.5)


def scale_positions(model):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model.config.text_config.rope_parameters = rope


def widen(model):
    model.to(torch.float64)


def train(model):
    model.train()


CHANGES = [
    (swap_a_projection, r"model.language_model.layers.1.self_attn.q_proj: is a .*Adapted"),
    (hook_an_output, r"model.language_model.layers.0.self_attn: has the hook hook_an_output"),
    (hook_an_input, r"model.generation_head: has the hook hook_an_input"),
    (replace_a_forward, r"model.language_model.norm: its forward was replaced"),
    (mix_dtypes, r"layers.1.self_attn.q_proj.weight: its dtype is torch.bfloat16, that of .* is torch.float32"),
    (mix_dtypes_of_parts, r"model.generation_head: is torch.bfloat16 on cpu, model.language_model is torch.float32"),
    (wrap_a_parameter, r"layers.0.mlp.down_proj.weight: is a Packed"),
    (add_a_parameter, r"parameters that our decoder lacks: extra"),
    (scale_positions, r"rope type 'linear' is not supported"),
    (widen, r"embed_tokens.weight: is torch.float64, allowed are torch.float32, torch.bfloat16, torch.float16"),
    (train, r"model.language_model: is in training mode; call model.eval\(\) first"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_that_was_changed(change, message):
    model = small()
    change(model)
    with pytest.raises(janus.UnsupportedModelError, match=message):
        janus.accelerate(model)
    assert "generate" not in vars(model)


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_change_after_it_was_accelerated(change, message):
    model, prompts = small(), janus_prompts([5], SHAPE)
    janus.accelerate(model)
    draw(model, prompts)
    change(model)
    with pytest.raises(janus.UnsupportedModelError, match=message):
        draw(model, prompts)


def test_other_rotary_frequencies():
    model = small()
    turn_faster(model)
    with pytest.raises(janus.UnsupportedModelError, match="rotary_emb: its frequencies are not those of theta 10000"):
        janus.accelerate(model)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("text_config", {"attention_bias": True}, "attention_bias True is not supported"),
        ("text_config", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("text_config", {"model_type": "gemma"}, "model_type 'gemma' is not supported"),
        (
            "text_config",
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
            "use_sliding_window True is not supported",
        ),
        ("vq_config", {"hidden_act": "relu"}, "'relu' is not supported, only gelu, gelu_pytorch_tanh"),
    ],
)
def test_configs_beyond_us(part, settings, message):
    config = janus_config(SHAPE).to_dict()
    text = {k: v for k, v in config["text_config"].items() if k in (*vars(LlamaConfig()), "model_type")}
    config["text_config"] = text
    config[part] = config[part] | settings
    model = JanusForConditionalGeneration(JanusConfig(**config)).eval()
    with pytest.raises(janus.UnsupportedModelError, match=message):
        janus.accelerate(model)


def test_other_models():
    with pytest.raises(TypeError, match=r"got .*LlamaForCausalLM"):
        janus.accelerate(LlamaForCausalLM(janus_config(SHAPE).text_config))
    model = small()
    model.__class__ = type("Mine", (type(model),), {})
    with pytest.raises(TypeError, match=r"got .*Mine"):
        janus.accelerate(model)


def test_twice_is_an_error():
    model = small()
    janus.accelerate(model)
    with pytest.raises(RuntimeError, match="replaced already; call revert"):
        janus.accelerate(model)


def test_copies_are_refused_and_work_after_reverting():
    model, prompts = small(), janus_prompts([5], SHAPE)
    janus.accelerate(model)
    expected = draw(model, prompts)
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="call revert"):
            make(model)
    janus.revert(model)
    other = copy.deepcopy(model)
    assert torch.equal(draw(other, prompts), expected)
