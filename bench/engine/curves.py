"""Curves over the number of pictures drawn together: steps, prompts, and whole pictures."""

import torch

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine import demo, guided, qwen
from illume_fast.bench.engine.contest import Contest, once
from illume_fast.bench.engine.floor import reading
from illume_fast.engine import Plan, SamplingParams, SamplingSet, Site
from illume_fast.model.config import DecoderConfig

BATCHES = (1, 2, 4, 8, 16, 32, 64)
AXIS = "pictures together"


def reads(config: DecoderConfig, dtype: torch.dtype, count: int, length: int, *, name: str) -> Contest:
    """The reading of `count` prompts of `length` tokens, with the one draw that follows each."""
    plan = Plan.of([Site(((0, config.vocab_size),))])
    make = guided.make(config, dtype, plan, SamplingParams(), batch=count, prompt=length, unconditional=1)
    return Contest(
        op="engine",
        name=f"{name}, {count} prompts of {length} tokens, {dtype}",
        make=make,
        check=_reads_alike,
        ours=_our_turn,
        tokens=count * length,
        rounded=dtype == torch.bfloat16,
        scale=(f"{name}: reading prompts of {length} tokens", "prompts", count),
        **reading(config, [length] * count, itemsize=dtype.itemsize).whole,
    )


def _reads_alike(made: guided.Guided) -> None:
    """The first draws after prompts read together are those after prompts read alone."""
    together, requests = made.draw()[:2], made.requests()[:2]
    alone = torch.cat([guided.answers(made.engine, [request]) for request in requests])
    if not torch.equal(together, alone):
        raise RuntimeError("engine: the draws after prompts that were read together are not those when read alone")


def _our_turn(made: guided.Guided) -> Turn:
    return once(made.draw)


def _demo_steps(batch: int) -> Contest:
    """Steps of a decoder of the demo model's shape, in the middle of pictures."""
    config = demo.demo_config()
    return qwen.steps(
        config,
        torch.float32,
        batch,
        name="demo model's shape",
        drawn=40,
        sampling=SamplingParams((SamplingSet(temperature=0.4),), 1.5),
        head_rows=2048,
        peers={},
        notes=guided.share_of_steps,
        scale=("demo model's shape: a step", AXIS, batch),
    )


CURVES = [
    *(_demo_steps(batch) for batch in BATCHES),
    *(
        qwen.steps(
            qwen.SHAPE,
            torch.bfloat16,
            batch,
            name="Qwen2-shaped, 0.37B",
            peers={},
            notes=guided.share_of_steps,
            scale=("Qwen2-shaped, 0.37B, bfloat16: a step", AXIS, batch),
        )
        for batch in BATCHES
    ),
    *(reads(demo.demo_config(), torch.float32, n, 160, name="demo model's shape") for n in BATCHES),
    *(reads(qwen.SHAPE, torch.bfloat16, n, 192, name="Qwen2-shaped, 0.37B") for n in (1, 4, 16)),
    *(demo.curve(batch, AXIS) for batch in BATCHES),
]
