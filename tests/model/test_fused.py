import copy

import pytest
import torch
from engine_cases import ask, run, small_engine, small_model
from safetensors.torch import load_file, save_file

from illume_fast.model import attention, layers
from illume_fast.model.attention import CausalAttention
from illume_fast.model.fused import lay_together
from illume_fast.model.layers import joined


def parts_of(layer):
    attend, mlp = layer.self_attn, layer.mlp
    qkv = [attend.q_proj, attend.k_proj, attend.v_proj]
    return [[p.weight for p in qkv], [p.bias for p in qkv], [mlp.gate_proj.weight, mlp.up_proj.weight]]


def are_together(model):
    return [joined(parts) is not None for layer in model.model.layers for parts in parts_of(layer)]


def hidden_of(model, seed=0):
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(seed))
    return model.decoder(x, torch.arange(5)[None], CausalAttention())


def test_nothing_changes_but_where_the_weights_lie():
    model = small_model(qkv_bias=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert not any(are_together(model))
    assert lay_together(model.decoder) == 6
    assert all(are_together(model))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(held.values()) == sum(p.nbytes for p in model.parameters())


def test_one_product_makes_them_and_answers_are_the_same(monkeypatch):
    model = small_model(qkv_bias=True)
    asked = [ask(i, guidance=2.0) for i in range(3)]
    expected, hidden = run(small_engine(model, graphs=True), asked), hidden_of(model)
    lay_together(model.decoder)
    for module, name in ((attention, "qkv_linear"), (layers, "swiglu_linear")):
        monkeypatch.setattr(module, name, lambda *args, name=name: pytest.fail(f"{name} was called"))
    with torch.no_grad():
        assert torch.allclose(hidden_of(model), hidden, atol=1e-5)
    assert run(small_engine(model, graphs=True), asked) == expected


def test_saved_and_loaded(tmp_path):
    model = small_model(qkv_bias=True)
    lay_together(model.decoder)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = small_model(seed=1, qkv_bias=True)
    lay_together(other.decoder)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert all(are_together(other))
    assert torch.equal(hidden_of(other), hidden_of(model))


def test_trained_they_stay_together():
    ours, apart = (small_model(qkv_bias=True).requires_grad_() for _ in range(2))
    lay_together(ours.decoder)
    for model in (ours, apart):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            hidden_of(model, seed).square().sum().backward()
            optimizer.step()
    assert all(are_together(ours))
    for (name, a), b in zip(ours.named_parameters(), apart.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_what_takes_them_apart_leaves_them_right():
    model = small_model(qkv_bias=True)
    hidden = hidden_of(model)
    lay_together(model.decoder)
    for other in (copy.deepcopy(model), copy.deepcopy(model).double().float()):
        assert torch.allclose(hidden_of(other), hidden, atol=1e-5)
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *args: None)
    assert lay_together(model.decoder) == 5


def test_weights_that_only_happen_to_be_near_are_not_joined():
    whole = torch.randn(6, 4)
    assert torch.equal(joined((whole[:2], whole[2:5])), whole[:5])
    assert joined((whole[:2], whole[3:5])) is None
    assert joined((whole[2:4], whole[:2])) is None
    assert joined((whole[:, :2], whole[:, 2:])) is None
    assert joined((torch.randn(2, 4), torch.randn(3, 4))) is None
