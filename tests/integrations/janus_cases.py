"""Small Janus models, and what the model's own method draws."""

from functools import partial

import pytest
import torch
import transformers
from transformers import DynamicCache, JanusForConditionalGeneration

from illume_fast.bench.models.janus import BOI, BOS, PAD, JanusShape, janus_model

SHAPE = JanusShape(
    layers=2, hidden=64, heads=4, key_value_heads=2, intermediate=96, image_tokens=16, codes=150, words=60
)
LENGTHS = [5, 19, 3, 40]


def small(dtype=torch.float32, **changes):
    """A model of `SHAPE`; `changes` are made to its shape."""
    return janus_model(JanusShape(**(vars(SHAPE) | changes)), dtype=dtype)


def draw(model, prompts, **options):
    """Picture tokens by whatever `generate` the model has, greedy unless told."""
    return _generate(model.generate, prompts, options)


def own(model, prompts, **options):
    """Picture tokens by the class's method."""
    return _generate(partial(JanusForConditionalGeneration.generate, model), prompts, options)


def _generate(method, prompts, options):
    options = {"do_sample": False, "guidance_scale": 5.0} | options
    try:
        return method(**prompts, generation_mode="image", **options)
    except TypeError as error:
        # as in 5.17: it calls another of its methods wrongly
        if "_prepare_static_cache" not in str(error):
            raise
        pytest.skip(f"the image mode of transformers {transformers.__version__} itself fails: {error}")


@torch.no_grad()
def drawn_by_parts(model, prompts, guidance):
    """Greedy tokens by the model's parts: its `generate` fails at guidance 1."""
    ids, mask = (prompts[key].repeat(2, 1) for key in ("input_ids", "attention_mask"))
    hidden = ids[len(ids) // 2 :]
    hidden[(hidden != BOS) & (hidden != BOI)] = PAD
    cache, embeds, tokens = DynamicCache(), model.get_input_embeddings()(ids), []
    for _ in range(model.model.vision_model.config.num_image_tokens):
        out = model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        conditional, unconditional = model.model.generation_head(out.last_hidden_state[:, -1]).chunk(2)
        tokens.append((unconditional + guidance * (conditional - unconditional)).argmax(-1))
        embeds = model.prepare_embeddings_for_image_generation(tokens[-1].repeat(2)[:, None])
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
    return torch.stack(tokens, 1)
