"""Guidance, filters and the draw."""

from typing import Any

import cases
import torch
import torch.nn.functional as F
from timing import Case
from torch import Tensor

from illume_fast.ops import cfg_head_sample, cfg_sample, use_backend

GUIDANCE = 3.0


def _hugging_face(top_k: int, top_p: float) -> Any:
    from transformers.generation.logits_process import (
        ClassifierFreeGuidanceLogitsProcessor,
        LogitsProcessorList,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList([ClassifierFreeGuidanceLogitsProcessor(GUIDANCE)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))

    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        scores = processors(cond.new_zeros(len(cond), 1, dtype=torch.int64), torch.cat([cond, uncond]))
        return torch.multinomial(scores.softmax(-1), 1)[:, 0]

    return sample


def _plain_torch(top_k: int, top_p: float) -> Any:
    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        mixed = uncond + GUIDANCE * (cond - uncond)
        values, ids = mixed.topk(top_k or mixed.shape[1]) if top_k or top_p < 1 else (mixed, None)
        p = values.softmax(-1)
        if top_p < 1:
            p = p.masked_fill(p.cumsum(-1) - p > top_p, 0.0)
        drawn = torch.multinomial(p, 1)
        return (drawn if ids is None else ids.gather(1, drawn))[:, 0]

    return sample


def _sample(rows: int, size: int, top_k: int, top_p: float) -> Case:
    settings = {"guidance": GUIDANCE, "top_k": top_k, "top_p": top_p, "seed": 1, "step": 2}

    def check(ids: Tensor, cond: Tensor, uncond: Tensor) -> None:
        with use_backend("reference"):
            expected = cfg_sample(cond, uncond, **settings)
        if not torch.equal(ids, expected):
            raise RuntimeError(f"cfg_sample: {int((ids != expected).sum())} of {rows} draws differ from the reference")

    return Case(
        op="cfg_sample",
        name=f"{rows} x {size}, top-k {top_k}, top-p {top_p}",
        make=lambda: cases.logits(rows, size),
        ours=lambda cond, uncond: cfg_sample(cond, uncond, **settings),
        peers={
            "Hugging Face processors + multinomial": _hugging_face(top_k, top_p),
            "torch topk + multinomial": _plain_torch(top_k, top_p),
        },
        check=check,
        bytes=2 * 4 * rows * size,
    )


def _head(rows: int, hidden: int, vocabulary: int, legal: tuple[int, int]) -> Case:
    settings = {"guidance": GUIDANCE, "top_k": 2048, "top_p": 0.8, "seed": 1, "step": 2}
    both_heads = _hugging_face(2048, 0.8)

    def make() -> tuple[Tensor, Tensor, Tensor]:
        weight, _ = cases.codebook(vocabulary, 1, hidden)
        return (*cases.codebook(rows, rows, hidden), weight / hidden**0.5)

    def check(ids: Tensor, cond: Tensor, uncond: Tensor, weight: Tensor) -> None:
        lo, hi = legal
        logits = [F.linear(h.double(), weight[lo:hi].double()).float() for h in (cond, uncond)]
        expected = cfg_sample(*logits, **settings) + lo
        if not torch.equal(ids, expected):
            raise RuntimeError(f"cfg_head_sample: {int((ids != expected).sum())} of {rows} draws differ")

    def upstream(cond: Tensor, uncond: Tensor, weight: Tensor) -> Tensor:
        lo, hi = legal
        return both_heads(*(F.linear(h, weight)[:, lo:hi] for h in (cond, uncond))) + lo

    return Case(
        op="cfg_head_sample",
        name=f"{rows} x {hidden}, rows {legal[0]} to {legal[1]} of {vocabulary}",
        make=make,
        ours=lambda cond, uncond, weight: cfg_head_sample(cond, uncond, weight, legal, **settings),
        peers={"whole head on both branches + Hugging Face": upstream},
        check=check,
        bytes=4 * hidden * (legal[1] - legal[0]),
        operations=2 * rows * hidden * (legal[1] - legal[0]),
    )


CASES = [
    _sample(64, 32768, 2048, 0.8),
    _sample(1, 32768, 2048, 0.8),
    _sample(64, 98304, 6144, 0.8),
    _sample(64, 16384, 2048, 1.0),
    _sample(64, 16384, 0, 1.0),
    _head(16, 256, 65536, (32768, 65536)),
]
