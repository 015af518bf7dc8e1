"""A Qwen2-shaped decoder of 0.37 billion weights: a step in the middle of pictures, beside `transformers`."""

from collections.abc import Mapping
from typing import Any

import torch

from illume_fast.bench.engine import guided
from illume_fast.bench.engine.contest import Contest
from illume_fast.bench.engine.floor import decode_step
from illume_fast.engine import Plan, SamplingParams, Site
from illume_fast.model.config import DecoderConfig

CODES = 16384
SAMPLING = SamplingParams(guidance=3.0)
SHAPE = DecoderConfig(
    vocab_size=CODES,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    max_position_embeddings=1024,
)
# half of a picture of 256 tokens lies behind, as part of the prompt
_DRAWN, _PROMPT, _UNCONDITIONAL, _STEPS = 128, 64, 16, 24


PEERS = {
    "transformers, static cache": guided.their_steps(),
    "transformers compiled, static cache": guided.their_steps(compiled=True),
}
_GOALS = {(torch.bfloat16, 1): 1.6, (torch.bfloat16, 16): 1.6, (torch.float32, 1): 3.5}


def steps(
    config: DecoderConfig,
    dtype: torch.dtype,
    batch: int,
    *,
    name: str,
    drawn: int = _DRAWN,
    steps: int = _STEPS,
    head_rows: int | None = None,
    sampling: SamplingParams = SAMPLING,
    peers: Mapping[str, Any] = PEERS,
    **more: Any,
) -> Contest:
    """Steps of `batch` guided pictures of which `drawn` tokens are there; the next are drawn from `head_rows` ids.

    `more` goes to the `Contest`.
    """
    head_rows = head_rows or config.vocab_size
    prompts = _PROMPT + drawn, _UNCONDITIONAL + drawn
    work = decode_step(
        config,
        [length + steps / 2 for length in prompts],
        batch=batch,
        head_rows=head_rows,
        itemsize=dtype.itemsize,
    )
    plan = Plan.of([Site(((0, head_rows),))] * steps)
    return Contest(
        op="engine",
        name=f"{name}, a step of {2 * batch} streams, {dtype}",
        make=guided.make(
            config,
            dtype,
            plan,
            sampling,
            batch=batch,
            prompt=prompts[0],
            unconditional=prompts[1],
        ),
        check=guided.check,
        ours=guided.our_steps,
        peers=peers,
        **work.whole,
        rounded=dtype == torch.bfloat16,
        steps=1,
        tokens=batch,
        **more,
    )


CONTESTS = [
    steps(SHAPE, dtype, batch, name="Qwen2-shaped, 0.37B", goal=goal) for (dtype, batch), goal in _GOALS.items()
]
