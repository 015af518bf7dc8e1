"""Janus on our engine draws what it draws on its own."""

import pytest
import torch
from janus_cases import LENGTHS, SHAPE, draw, drawn_by_parts, own, small
from transformers import JanusForConditionalGeneration
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from illume_fast.bench.models.janus import janus_prompts
from illume_fast.engine import RequestError
from illume_fast.integrations import janus
from illume_fast.kernels import native


@pytest.mark.parametrize("guidance", [5.0, 1.5, None])
@pytest.mark.parametrize("lengths", [[7], [12, 12], LENGTHS], ids=str)
def test_greedy_tokens_are_the_models_own(model, lengths, guidance):
    prompts = janus_prompts(lengths, SHAPE)
    expected = draw(model, prompts, guidance_scale=guidance)
    assert len({tuple(row) for row in expected.tolist()}) == len(lengths), "the prompts make no difference"
    janus.accelerate(model)
    actual = draw(model, prompts, guidance_scale=guidance)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)


def test_steps_are_replayed(model, prompts):
    janus.accelerate(model)
    draw(model, prompts)
    graphs = vars(model)["generate"]._engine.graphs
    assert graphs.refusal == native.missing
    assert native.missing or graphs.replays > 0


def test_padding_that_no_mask_hides_is_read(model, prompts):
    seen = prompts | {"attention_mask": torch.ones_like(prompts["attention_mask"])}
    expected = draw(model, seen)
    assert not torch.equal(expected, draw(model, prompts)), "padding makes no difference"
    janus.accelerate(model)
    assert torch.equal(draw(model, seen), expected)


@pytest.mark.parametrize("guidance", [1.0, 2.0, 5.0])
def test_greedy_tokens_are_those_of_the_models_parts(model, prompts, guidance):
    expected = drawn_by_parts(model, prompts, guidance)
    janus.accelerate(model)
    assert torch.equal(draw(model, prompts, guidance_scale=guidance), expected)


def test_several_pictures_of_a_prompt(model, prompts):
    options = {"do_sample": True, "top_k": 1, "num_return_sequences": 3}
    expected = draw(model, prompts, **options)
    janus.accelerate(model, max_batch=5)
    assert torch.equal(draw(model, prompts, **options), expected)
    apart = draw(model, prompts, do_sample=True, num_return_sequences=3)
    assert len({tuple(row) for row in apart.tolist()}) == 3 * len(LENGTHS), "pictures repeat"


def test_other_shapes():
    for changes in ({"key_value_heads": 4}, {"image_tokens": 1}, {"codes": 16384, "layers": 1}):
        model = small(**changes)
        prompts = janus_prompts([9, 4], SHAPE)
        expected = draw(model, prompts)
        janus.accelerate(model)
        assert torch.equal(draw(model, prompts), expected), changes


def test_parameters_are_the_models_own_and_all_comes_back(model, prompts):
    before, bits = set(vars(model)), {key: value.clone() for key, value in model.state_dict().items()}
    report = janus.accelerate(model)
    decoder = vars(model)["generate"]._pictures.decoder
    theirs = dict(model.model.language_model.named_parameters())
    ours = dict(decoder.named_parameters())
    assert {k: p.data_ptr() for k, p in ours.items()} == {k: p.data_ptr() for k, p in theirs.items()}
    assert all(ours[key] is theirs[key] for key in theirs)
    draw(model, prompts)
    assert model.state_dict().keys() == bits.keys()
    report.revert()
    report.revert()
    assert set(vars(model)) == before
    assert model.generate.__func__ is JanusForConditionalGeneration.generate
    assert all(torch.equal(value, bits[key]) for key, value in model.state_dict().items())
    janus.accelerate(model)
    janus.revert(model)
    assert "generate" not in vars(model)
    report = janus.accelerate(model)
    ours, model.generate = model.generate, print
    with pytest.raises(RuntimeError, match=r"model.generate is <built-in function print> by now"):
        report.revert()
    model.generate = ours
    report.revert()


def test_the_report_says_what_was_replaced(model):
    report = janus.accelerate(model)
    parts = model.model.language_model, model.model.generation_head
    assert report.shared_bytes == sum(4 * p.numel() for part in parts for p in part.parameters())
    assert report.cached_bytes == 4 * SHAPE.codes * SHAPE.hidden
    text = str(report)
    for said in ("torch.float32 on cpu", "2 layers", "head of 150 codes", "vqmodel", "logits_processor"):
        assert said in text


def test_text_is_untouched(model, prompts):
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(**prompts, generation_mode="text", **options)
    janus.accelerate(model)
    assert torch.equal(model.generate(**prompts, generation_mode="text", **options), expected)
    draw(model, prompts)
    assert torch.equal(model.generate(**prompts, **options), expected)


SAMPLINGS = [
    {"temperature": 0.7, "top_k": 20},
    {"temperature": 1.3, "top_k": 0, "top_p": 0.8},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.05},
    {"top_k": 0},
]


def probabilities(model, prompts, guidance, settings):
    """Of the first token, by the processors of `transformers` on the model's own scores."""
    options = {"return_dict_in_generate": True, "output_scores": True, "guidance_scale": guidance}
    conditional, unconditional = own(model, prompts, **options).scores.chunk(2)
    scores = unconditional + guidance * (conditional - unconditional)
    kinds = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    for name, kind in kinds.items():
        if settings.get(name):
            scores = kind(settings[name])(None, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize("settings", SAMPLINGS, ids=str)
def test_sampled_tokens_have_the_same_distribution(settings):
    model, prompts, draws = small(image_tokens=1), janus_prompts([9], SHAPE), 4000
    expected = draws * probabilities(model, prompts, 1.2, settings)[0]
    janus.accelerate(model, max_batch=500)
    drawn = draw(model, prompts, do_sample=True, guidance_scale=1.2, num_return_sequences=draws, seed=3, **settings)
    count = torch.bincount(drawn[:, 0], minlength=SHAPE.codes).double()
    assert not count[expected == 0].any(), "a token that was cut off was drawn"
    # rare tokens together, so that each class is expected often enough
    rare = expected < 8
    classes = [(count[~rare], expected[~rare]), (count[rare].sum()[None], expected[rare].sum()[None])]
    seen, wanted = (torch.cat(parts) for parts in zip(*classes, strict=True))
    kept = wanted > 0
    freedom = int(kept.sum()) - 1
    assert freedom > 3
    statistic = ((seen - wanted)[kept].square() / wanted[kept]).sum()
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@torch.no_grad()
def test_changed_weights_count(model, prompts):
    janus.accelerate(model)
    seen = [draw(model, prompts)]

    def changed():
        seen.append(own(model, prompts))
        assert not torch.equal(seen[-1], seen[-2]), "the change made no difference"
        return torch.equal(draw(model, prompts), seen[-1])

    model.model.language_model.layers[0].mlp.up_proj.weight.mul_(2)
    assert changed()
    model.model.generation_aligner.fc1.weight.data.mul_(-1)  # leaves no trace in the version counter
    assert changed()
    model.model.generation_head.proj_out.bias = torch.nn.Parameter(torch.randn(SHAPE.hidden))
    assert changed()
    model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()}, assign=True)
    assert changed()


def test_moved_to_another_dtype(model, prompts):
    janus.accelerate(model)
    draw(model, prompts)
    model.to(torch.bfloat16)
    other = small(torch.bfloat16)
    janus.accelerate(other)
    assert torch.equal(draw(model, prompts), draw(other, prompts))
    # the cast has rounded what its rotary positions are made from, and casting back does not mend it
    model.to(torch.float32)
    with pytest.raises(janus.UnsupportedModelError, match="rotary_emb: its frequencies are not those of theta"):
        draw(model, prompts)


def test_bfloat16():
    model, prompts = small(torch.bfloat16, image_tokens=1), janus_prompts(LENGTHS, SHAPE)
    scores = own(model, prompts, return_dict_in_generate=True, output_scores=True).scores.float()
    conditional, unconditional = scores.chunk(2)
    mixed = unconditional + 5 * (conditional - unconditional)
    report = janus.accelerate(model)
    assert report.dtype == torch.bfloat16
    tokens = draw(model, prompts)
    # bfloat16 rounds both branches, and guidance makes nine times that of it
    assert (mixed.gather(1, tokens)[:, 0] >= mixed.amax(1) - 0.1 * mixed.std(1)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_repeat(dtype):
    model, prompts = small(dtype), janus_prompts(LENGTHS, SHAPE)
    janus.accelerate(model)
    drawn = [draw(model, prompts, do_sample=True, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_modes_of_the_caller(model, prompts):
    expected = draw(model, prompts)
    with torch.inference_mode():
        janus.accelerate(model)
        assert torch.equal(draw(model, prompts), expected)
    assert torch.equal(draw(model, prompts), expected)
    model.model.generation_embeddings.weight.mul_(2.0)
    assert torch.equal(draw(model, prompts), own(model, prompts))
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = draw(model, prompts)
    assert torch.equal(draw(model, prompts), inside)


def test_calls_of_every_size_one_after_another(model):
    janus.accelerate(model, max_batch=3)
    for lengths in ([4], [4, 30, 8], [60], [3] * 10, [5]):
        prompts = janus_prompts(lengths, SHAPE)
        assert torch.equal(draw(model, prompts), own(model, prompts))


def test_a_broken_model_is_an_error_and_does_no_lasting_harm(model, prompts):
    janus.accelerate(model)
    expected = draw(model, prompts)
    bias = model.model.generation_head.vision_head.bias
    kept = bias.clone()
    bias.fill_(float("nan"))
    with pytest.raises(RequestError, match="picture 0 of prompt 0"):
        draw(model, prompts)
    bias.copy_(kept)
    assert torch.equal(draw(model, prompts), expected)


def test_too_long_a_prompt_is_refused():
    model = small(max_positions=30)
    janus.accelerate(model)
    with pytest.raises(RequestError, match="prompt and answer are 36 tokens long, the model takes 30"):
        draw(model, janus_prompts([20], SHAPE))
