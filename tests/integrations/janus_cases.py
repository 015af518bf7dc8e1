"""Small Janus models, and what the model's own method draws."""

import torch
from transformers import DynamicCache, JanusForConditionalGeneration

from illume_fast.bench.models.janus import JanusShape, janus_model

SHAPE = JanusShape(
    layers=2, hidden=64, heads=4, key_value_heads=2, intermediate=96, image_tokens=16, codes=150, words=60
)
LENGTHS = [5, 19, 3, 40]


def small(dtype=torch.float32, **changes):
    """A model of `SHAPE`; `changes` are made to its shape."""
    return janus_model(JanusShape(**(vars(SHAPE) | changes)), dtype=dtype)


def draw(model, prompts, **options):
    """Picture tokens by whatever `generate` the model has, greedy unless told."""
    return model.generate(**prompts, generation_mode="image", **({"do_sample": False, "guidance_scale": 5.0} | options))


def own(model, prompts, **options):
    """Picture tokens by the class's method."""
    options = {"do_sample": False, "guidance_scale": 5.0} | options
    return JanusForConditionalGeneration.generate(model, **prompts, generation_mode="image", **options)


@torch.no_grad()
def drawn_without_guidance(model, prompts):
    """Greedy tokens of the conditional branch alone, by the model's parts: its `generate` fails at guidance 1."""
    cache, mask = DynamicCache(), prompts["attention_mask"]
    embeds, tokens = model.get_input_embeddings()(prompts["input_ids"]), []
    for _ in range(model.model.vision_model.config.num_image_tokens):
        out = model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        tokens.append(model.model.generation_head(out.last_hidden_state[:, -1]).argmax(-1))
        embeds = model.prepare_embeddings_for_image_generation(tokens[-1][:, None])
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
    return torch.stack(tokens, 1)
