"""Curves over the number of pictures drawn together, and over prompts: steps, prompts read, and whole pictures.

Curves that count the same over the same axis share a plot.
"""

import torch

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine import demo, guided, qwen
from illume_fast.bench.engine.contest import Contest, once
from illume_fast.bench.engine.floor import reading
from illume_fast.engine import Plan, SamplingParams, SamplingSet, Site
from illume_fast.model.config import DecoderConfig

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 32, 64, 128, 256, 512)
TOGETHER = "pictures together"
_DEMO, _QWEN = "demo model's shape, float32", "Qwen2-shaped, 0.37B, bfloat16"
_PROMPT = 160  # tokens


def reads(
    config: DecoderConfig, dtype: torch.dtype, count: int, length: int, *, name: str, scale: tuple[str, str, int]
) -> Contest:
    """The reading of `count` prompts of `length` tokens, with the one draw that follows each."""
    plan = Plan.of([Site(((0, config.vocab_size),))])
    make = guided.make(config, dtype, plan, SamplingParams(), batch=count, prompt=length, unconditional=1)
    return Contest(
        op="engine",
        name=f"{name}, {count} prompts of {length} tokens",
        make=make,
        check=_reads_alike,
        ours=_our_turn,
        tokens=count * length,
        rounded=dtype == torch.bfloat16,
        scale=scale,
        **reading(config, [length] * count, itemsize=dtype.itemsize).whole,
    )


def _reads_alike(made: guided.Guided) -> None:
    """The first draws after prompts read together are those after prompts read alone."""
    together, requests = made.draw_anew()[:2], made.requests()[:2]
    made.engine.clear()
    alone = torch.cat([guided.answers(made.engine, [request]) for request in requests])
    if not torch.equal(together, alone):
        raise RuntimeError("engine: the draws after prompts that were read together are not those when read alone")


def _our_turn(made: guided.Guided) -> Turn:
    return once(made.draw_anew)


def _reading(config: DecoderConfig, dtype: torch.dtype, name: str, counts: tuple[int, ...]) -> list[Contest]:
    """Over the number of prompts, and over the length of one."""
    together, alone = f"prompts of {_PROMPT} tokens, read together", "tokens of one prompt"
    return [
        *(reads(config, dtype, n, _PROMPT, name=name, scale=(name, together, n)) for n in counts),
        *(reads(config, dtype, 1, length, name=name, scale=(name, alone, length)) for length in LENGTHS),
    ]


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
        scale=(_DEMO, TOGETHER, batch),
    )


def _qwen_steps(batch: int) -> Contest:
    return qwen.steps(
        qwen.SHAPE,
        torch.bfloat16,
        batch,
        name="Qwen2-shaped, 0.37B",
        peers={},
        notes=guided.share_of_steps,
        scale=(_QWEN, TOGETHER, batch),
    )


CURVES = [
    *map(_demo_steps, BATCHES),
    *map(_qwen_steps, BATCHES),
    *_reading(demo.demo_config(), torch.float32, _DEMO, BATCHES),
    *_reading(qwen.SHAPE, torch.bfloat16, _QWEN, (1, 4, 16)),
    *(demo.curve(batch, TOGETHER) for batch in BATCHES),
]
