"""Arguments of `generate`: seeds, options that the model's own method has to do, and mistakes."""

import warnings

import pytest
import torch
from janus_cases import LENGTHS, SHAPE, draw
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList

from illume_fast.bench.models.janus import janus_prompts
from illume_fast.integrations import janus


def test_seeds(model, prompts):
    janus.accelerate(model)

    def sample(prompts=prompts, **options):
        return draw(model, prompts, do_sample=True, **options)

    def by_torch(seed):
        torch.manual_seed(seed)
        return sample()

    def generator(seed):
        return torch.Generator().manual_seed(seed)

    assert torch.equal(by_torch(1), by_torch(1))
    assert not torch.equal(by_torch(1), by_torch(2))
    assert torch.equal(sample(generator=generator(1)), sample(generator=generator(1)))
    assert not torch.equal(sample(generator=generator(1)), sample(generator=generator(2)))
    assert not torch.equal(sample(), sample())
    assert torch.equal(sample(seed=7), sample(seed=7))
    assert torch.equal(
        sample(seed=[1, 2, 3, 4])[2:3], sample(janus_prompts(LENGTHS, SHAPE, seed=1), seed=[8, 8, 3, 8])[2:3]
    )
    alone = {key: value[1:2, -LENGTHS[1] :] for key, value in prompts.items()}
    assert torch.equal(sample(alone, seed=[2]), sample(seed=[1, 2, 3, 4])[1:2])
    with pytest.raises(ValueError, match="3 seeds were given for 4 pictures"):
        sample(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="seed or generator, not both"):
        sample(seed=1, generator=generator(1))
    with pytest.raises(ValueError, match="seed and generator are for"):
        model.generate(**prompts, seed=1)


def test_greedy_takes_nothing_from_the_generator(model, prompts):
    janus.accelerate(model)
    state = torch.get_rng_state()
    draw(model, prompts)
    assert torch.equal(torch.get_rng_state(), state)


def right_padded():
    prompts = janus_prompts([6, 9], SHAPE)
    return {key: torch.stack((value[0].roll(-3), value[1])) for key, value in prompts.items()}


class Halved(LogitsProcessorList):
    def __call__(self, ids, scores):
        return scores * 0.5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"logits_processor": LogitsProcessorList([Halved()])}, "logits_processor"),
        ({"repetition_penalty": 1.7}, "RepetitionPenaltyLogitsProcessor"),
        ({"do_sample": True, "typical_p": 0.5, "top_k": 1}, "TypicalLogitsWarper"),
        ({"suppress_tokens": [3, 5, 7]}, "SuppressTokensLogitsProcessor"),
        ({"position_ids": torch.arange(40)[None]}, "position_ids"),
        ({"cache_implementation": "offloaded_static"}, "cache_implementation 'offloaded_static'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_beyond_us_run_the_models_own_method(model, prompts, options, named):
    if "position_ids" in options or "cache_implementation" in options:
        prompts = janus_prompts([40], SHAPE)
        options = dict(options)
    expected = outcome(model, prompts, options)
    janus.accelerate(model)
    with pytest.warns(UserWarning, match=f"transformers' own method runs, because of .*{named}"):
        actual = outcome(model, prompts, options)
    assert torch.equal(actual, expected) if isinstance(expected, torch.Tensor) else actual == expected
    with pytest.raises(ValueError, match=f"seed and generator cannot be combined with .*{named}"):
        draw(model, prompts, **_fresh(options), seed=1)


def outcome(model, prompts, options):
    """The tokens, or what kind of error came instead."""
    try:
        return draw(model, prompts, **_fresh(options))
    except Exception as error:
        return type(error)


def _fresh(options):
    """The method appends to the list of processors it is given."""
    return {k: type(v)(v) if isinstance(v, LogitsProcessorList) else v for k, v in options.items()}


def test_other_outputs_come_from_the_models_own_method(model, prompts):
    janus.accelerate(model)
    with pytest.warns(UserWarning, match="because of return_dict_in_generate, output_scores"):
        result = draw(model, prompts, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(result.sequences, draw(model, prompts))


def test_hooks_that_hand_out_hidden_states_do_no_harm(model, prompts):
    expected = draw(model, prompts)
    model.model.language_model(**prompts, output_hidden_states=True)
    assert any(part._forward_hooks for part in model.modules()), "transformers hooks in no more"
    janus.accelerate(model)
    assert torch.equal(draw(model, prompts), expected)


def test_padding_on_the_right_runs_the_models_own_method(model):
    prompts = right_padded()
    expected = draw(model, prompts)
    janus.accelerate(model)
    with pytest.warns(UserWarning, match="padding elsewhere than on the left"):
        assert torch.equal(draw(model, prompts), expected)


def test_ordinary_calls_warn_of_nothing(model, prompts):
    janus.accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(model, prompts, do_sample=True, top_k=5, temperature=0.5, renormalize_logits=True, use_cache=True)
        settings = GenerationConfig(do_sample=True, top_k=1, guidance_scale=5.0)
        as_config = model.generate(
            prompts["input_ids"], prompts["attention_mask"], generation_mode="image", generation_config=settings
        )
        assert torch.equal(as_config, draw(model, prompts))


def test_wrong_calls(model, prompts):
    janus.accelerate(model)
    with pytest.raises(ValueError, match="attention_mask is missing"):
        draw(model, {"input_ids": prompts["input_ids"]})
    with pytest.raises(ValueError, match=r"the shape of attention_mask is \(4, 39\), that of input_ids \(4, 40\)"):
        draw(model, prompts | {"attention_mask": prompts["attention_mask"][:, 1:]})
    with pytest.raises(ValueError, match="guidance_scale must be at least 1"):
        draw(model, prompts, guidance_scale=0.5)
    with pytest.raises(ValueError, match="num_return_sequences"):
        draw(model, prompts, num_return_sequences=2)
    with pytest.raises(ValueError, match="nonsense"), pytest.warns(UserWarning, match="nonsense"):
        draw(model, prompts, nonsense=1)
    with pytest.raises(ValueError, match="num_beams"), pytest.warns(UserWarning, match="beam"):
        draw(model, prompts, num_beams=2)
    model.generation_config.generation_kwargs = {}
    with pytest.raises(ValueError, match="boi_token_id"):
        draw(model, prompts)
