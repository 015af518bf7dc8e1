"""Janus, small and with random weights: `generate` of transformers as it comes, beside the same on our engine."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine.contest import Contest, once
from illume_fast.bench.engine.floor import decode_step
from illume_fast.bench.engine.greedy import NEAR_TIE, same_greedy
from illume_fast.model.config import DecoderConfig

GUIDANCE = 5.0
PROMPT = 20


@dataclass(frozen=True, eq=False)
class Made:
    """A Janus that is accelerated, whose class still has the method of transformers, and prompts for it."""

    model: Any
    prompts: dict[str, Tensor]

    def draw(self, generate: Callable[..., Tensor], *, greedy: bool = False) -> Tensor:
        """Codes int64 [B, image tokens]."""
        settings = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "temperature": 1.0}
        return generate(**self.prompts, generation_mode="image", guidance_scale=GUIDANCE, **settings)

    def theirs(self, *, greedy: bool = False) -> Tensor:
        """The codes by the method of transformers."""
        return self.draw(lambda **arguments: type(self.model).generate(self.model, **arguments), greedy=greedy)


def _make(shape: dict[str, int], batch: int) -> Callable[[str, ExitStack], Made]:
    def made(device: str, stack: ExitStack) -> Made:
        from illume_fast.bench.models.janus import JanusShape, janus_model, janus_prompts
        from illume_fast.integrations.janus import accelerate

        sizes = JanusShape(**shape)
        model = janus_model(sizes).to(device)
        accelerate(model, max_batch=batch)
        prompts = {name: x.to(device) for name, x in janus_prompts([PROMPT] * batch, sizes).items()}
        return Made(model, prompts)

    return made


def _check(made: Made) -> None:
    from illume_fast.bench.models.janus import BOI, BOS, PAD

    ours, expected = made.draw(made.model.generate, greedy=True), made.theirs(greedy=True)
    parts = made.model.model

    @torch.no_grad()
    def logits(row: int, step: int) -> Tensor:
        ids = made.prompts["input_ids"][row].repeat(2, 1)
        ids[1].masked_fill_((ids[1] != BOS) & (ids[1] != BOI), PAD)
        embeds = parts.language_model.embed_tokens(ids)
        if step:
            codes = expected[row, :step].repeat(2, 1)
            embeds = torch.cat([embeds, made.model.prepare_embeddings_for_image_generation(codes)], 1)
        hidden = parts.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1]
        conditional, unconditional = parts.generation_head(hidden)
        return unconditional + GUIDANCE * (conditional - unconditional)

    same_greedy("engine", ours.cpu(), expected.cpu(), logits, NEAR_TIE["torch.float32"])


def _ours(made: Made) -> Turn:
    return once(lambda: made.draw(made.model.generate))


def _theirs(made: Made, stack: ExitStack) -> Turn:
    return once(made.theirs)


def pictures(
    batch: int,
    *,
    hidden: int = 256,
    layers: int = 6,
    heads: int = 8,
    intermediate: int = 688,
    codes: int = 16384,
    tokens: int = 576,
) -> Contest:
    """`batch` pictures drawn together, from prompts of 20 tokens."""
    config = DecoderConfig(
        vocab_size=codes,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    # the head's first layer is a square one, and counts as more rows
    step = decode_step(config, [PROMPT + tokens / 2] * 2, batch=batch, head_rows=codes + hidden, itemsize=4)
    shape = {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "intermediate": intermediate,
        "codes": codes,
        "image_tokens": tokens,
    }
    return Contest(
        op="engine",
        name=f"Janus, {layers} layers x {hidden}, {tokens} tokens, batch {batch}",
        make=_make(shape, batch),
        check=_check,
        ours=_ours,
        peers={"transformers": _theirs},
        pictures=batch,
        **(step * tokens).whole,
    )


CONTESTS = [replace(pictures(batch), goal=goal) for batch, goal in ((1, 4.0), (8, 3.5))]
