"""Bytes and time of weight-only quantisation by torchao, on the demo and on a decoder of 0.4 billion random weights.

python -m illume_fast.bench.quantized [--models demo large] [--dtypes float32 bfloat16] [--repeats 5]
    [--tokens 40] [--json FILE]

Each repeat draws one picture of 64 x 64 (or its first tokens), with guidance, by each kind of weights in turn; a row
has the median and the quickest time of a step. Bytes are those of the decoder's layers, all of which each step reads.
"agree" is the part of the ids that are those of whole weights, drawn greedily; it says little of random weights, whose
scores nearly tie.
"""

import argparse
import copy
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from illume_fast.bench.machine import where
from illume_fast.engine import EngineConfig
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint
from illume_fast.model.illume import build_illume
from illume_fast.model.quantized import KINDS, prepare
from illume_fast.pipeline import Draw, IllumePipeline

_PROMPT = "a red heart"
# 0.40 billion weights in the layers
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}


def checkpoint_of(model: str, dtype: torch.dtype) -> Checkpoint:
    """The demo, or the demo with a larger decoder of random weights."""
    demo = load_checkpoint("demo", dtype)
    if model == "demo":
        return demo
    config = demo.config.model
    config = replace(config, decoder=replace(config.decoder, **_LARGE, dropout=0.0))
    large = build_illume(config, seed=0).to(dtype).eval()
    return replace(demo, config=replace(demo.config, model=config), model=large)


def pipeline_of(checkpoint: Checkpoint, kind: str | None) -> IllumePipeline:
    """A pipeline over a copy of the weights, quantised."""
    own = replace(checkpoint, model=copy.deepcopy(checkpoint.model))
    prepare(own.model, kind)
    return IllumePipeline(own, EngineConfig(max_batch=1, cache_tokens=1024))


def layer_bytes(pipeline: IllumePipeline) -> int:
    """Bytes of the decoder's layers; a quantised weight is its parts."""
    total = 0
    for weight in pipeline.checkpoint.model.decoder.layers.parameters():
        parts = [part for part in vars(weight.data).values() if isinstance(part, torch.Tensor)]
        total += sum(part.nbytes for part in parts or [weight.data])
    return total


def drawn(pipeline: IllumePipeline, most: int) -> tuple[float, torch.Tensor]:
    """Seconds a step, and the first `most` ids of a picture, drawn greedily and with guidance."""
    (request,) = pipeline.tasks.requests(Draw(prompt=_PROMPT, guidance=2.0, temperature=0.0))
    whole = request.plan
    request = replace(request, plan=replace(whole, forced=whole.forced[:most], site=whole.site[:most]))
    ends: list[float] = []
    start = time.perf_counter()
    (result,) = pipeline.engine.generate([request], lambda progress: ends.append(time.perf_counter()))
    if result.error is not None:
        raise result.error
    return (ends[-1] - start) / len(ends), result.ids


def rows_of(model: str, dtype: torch.dtype, repeats: int, most: int) -> list[dict[str, Any]]:
    """One row for each kind of weights."""
    checkpoint = checkpoint_of(model, dtype)
    pipelines = {kind: pipeline_of(checkpoint, kind) for kind in (None, *KINDS)}
    codes = {kind: drawn(pipeline, most)[1] for kind, pipeline in pipelines.items()}
    times: dict[str | None, list[float]] = {kind: [] for kind in pipelines}
    for _ in range(repeats):
        for kind, pipeline in pipelines.items():
            times[kind].append(drawn(pipeline, most)[0])
    return [
        {
            "model": model,
            "weights": kind or str(dtype).removeprefix("torch."),
            "activations": str(dtype).removeprefix("torch."),
            "megabytes": layer_bytes(pipeline) / 1e6,
            "ms_a_step": 1000 * statistics.median(times[kind]),
            "ms_quickest": 1000 * min(times[kind]),
            "agree": (codes[kind] == codes[None]).float().mean().item(),
        }
        for kind, pipeline in pipelines.items()
    ]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as lines of Markdown."""
    lines = ["| model | activations | weights | MB | ms a step | quickest | agree |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = f"{row['megabytes']:.1f} | {row['ms_a_step']:.2f} | {row['ms_quickest']:.2f} | {row['agree']:.0%}"
        lines.append(f"| {row['model']} | {row['activations']} | {row['weights']} | {cells} |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("demo", "large"), default=["demo", "large"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1000, help="at most so many of a picture")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    pairs = [(model, getattr(torch, dtype)) for model in options.models for dtype in options.dtypes]
    rows = [row for model, dtype in pairs for row in rows_of(model, dtype, options.repeats, options.tokens)]
    print("\n".join(table(rows)))
    if options.json is not None:
        options.json.write_text(json.dumps({"where": where(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
