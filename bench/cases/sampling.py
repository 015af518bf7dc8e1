"""Guidance, filters and the draw."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench import inputs, libraries
from illume_fast.bench.case import Case
from illume_fast.ops import cfg_head_sample, cfg_sample, use_backend

GUIDANCE = 3.0
PENALTY = 1.05

Chain = tuple[int, float]  # top-k and top-p


def _hugging_face(*chains: Chain) -> Any:
    """The draw of Hugging Face's processors; None where they are not installed."""
    if find_spec("transformers") is None:
        return None
    from transformers.generation.logits_process import (
        ClassifierFreeGuidanceLogitsProcessor,
        LogitsProcessorList,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList([ClassifierFreeGuidanceLogitsProcessor(GUIDANCE)])
    for top_k, top_p in chains:
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            processors.append(TopPLogitsWarper(top_p))

    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        scores = processors(cond.new_zeros(len(cond), 1, dtype=torch.int64), torch.cat([cond, uncond]))
        return torch.multinomial(scores.softmax(-1), 1)[:, 0]

    return sample


def _plain_torch(first: Chain, *others: Chain) -> Any:
    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        mixed = uncond + GUIDANCE * (cond - uncond)
        top_k, top_p = first
        values, ids = mixed.topk(top_k or mixed.shape[1]) if top_k or top_p < 1 else (mixed, None)
        p = values.softmax(-1)
        if top_p < 1:
            p = p.masked_fill(p.cumsum(-1) - p > top_p, 0.0)
        for fewer, top_p in others:
            p = p[:, :fewer]
            mass = p.cumsum(-1)
            p = p.masked_fill(mass - p > top_p * mass[:, -1:], 0.0)
        drawn = torch.multinomial(p, 1)
        return (drawn if ids is None else ids.gather(1, drawn))[:, 0]

    return sample


@cache
def _compiled(top_k: int) -> Any:
    """Top-k and a race of exponentials, as gpt-fast draws; no top-p."""

    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        mixed = uncond + GUIDANCE * (cond - uncond)
        values, ids = mixed.topk(top_k)
        race = values.softmax(-1) / torch.empty_like(values).exponential_(1)
        return ids.gather(1, race.argmax(1, keepdim=True))[:, 0]

    return torch.compile(sample, dynamic=False)


def _sample(
    rows: int,
    size: int,
    top_k: int,
    top_p: float,
    *,
    then: Chain | None = None,
    curve: tuple[str, str, int] | None = None,
) -> Case:
    settings = {"guidance": GUIDANCE, "top_k": top_k, "top_p": top_p, "seed": 1, "step": 2}
    chains = ((top_k, top_p),) if then is None else ((top_k, top_p), then)
    second = "" if then is None else f", then top-k {then[0]}, top-p {then[1]}"
    if then is not None:
        settings |= {"then_top_k": then[0], "then_top_p": then[1]}
    hugging_face = _hugging_face(*chains)

    def check(ids: Tensor, cond: Tensor, uncond: Tensor) -> None:
        with use_backend("reference"):
            expected = cfg_sample(cond, uncond, **settings)
        if not torch.equal(ids, expected):
            raise RuntimeError(f"cfg_sample: {int((ids != expected).sum())} of {rows} draws differ from the reference")

    return Case(
        op="cfg_sample",
        name=f"{rows} x {size}, top-k {top_k}, top-p {top_p}{second}",
        make=lambda: inputs.logits(rows, size),
        ours=lambda cond, uncond: cfg_sample(cond, uncond, **settings),
        peers={
            **({"Hugging Face processors + multinomial": hugging_face} if hugging_face else {}),
            "torch topk + multinomial": _plain_torch(*chains),
            **({"torch.compile, without top-p": _compiled(top_k)} if top_k and then is None else {}),
        },
        gpu_peers=libraries.cfg_sample(GUIDANCE, top_k, top_p) if then is None else {},
        check=check,
        bytes=2 * 4 * rows * size,
        scale=curve,
    )


def _head(rows: int, hidden: int, vocabulary: int, legal: tuple[int, int], dtype: torch.dtype) -> Case:
    settings = {"guidance": GUIDANCE, "top_k": 2048, "top_p": 0.8, "seed": 1, "step": 2}
    both_heads = _hugging_face((2048, 0.8))
    lo, hi = legal

    def make() -> tuple[Tensor, Tensor, Tensor]:
        return inputs.head(rows, hidden, vocabulary, dtype)

    def check(ids: Tensor, cond: Tensor, uncond: Tensor, weight: Tensor) -> None:
        mixed = (uncond.float() + GUIDANCE * (cond.float() - uncond.float())).to(dtype)
        logits = F.linear(mixed.double(), weight[lo:hi].double())
        # a draw is right if, with logits as far off as rounding may put them, some draw of the reference gives it
        slack = logits.abs().amax(1, keepdim=True) * (1e-5 if dtype == torch.float32 else 1e-2)
        kept = logits >= logits.topk(2048).values[:, -1:] - slack
        if not kept.gather(1, ids[:, None] - lo).all():
            raise RuntimeError("cfg_head_sample: an id was drawn that top-k leaves out")

    def upstream(cond: Tensor, uncond: Tensor, weight: Tensor) -> Tensor:
        return both_heads(*(F.linear(h, weight)[:, lo:hi].float() for h in (cond, uncond))) + lo

    def product(cond: Tensor, uncond: Tensor, weight: Tensor) -> Tensor:
        return F.linear(cond, weight[lo:hi])

    return Case(
        op="cfg_head_sample",
        name=f"{rows} x {hidden}, rows {lo} to {hi} of {vocabulary}, {dtype}",
        make=make,
        ours=lambda cond, uncond, weight: cfg_head_sample(cond, uncond, weight, legal, **settings),
        peers={
            **({"whole head on both branches + Hugging Face": upstream} if both_heads else {}),
            "only the product of the legal rows, torch": product,
        },
        gpu_peers=libraries.cfg_head_sample(GUIDANCE, 2048, 0.8, legal),
        check=check,
        bytes=dtype.itemsize * hidden * (hi - lo),
        operations=2 * rows * hidden * (hi - lo),
        rounded=dtype == torch.bfloat16,
    )


def _penalised(rows: int, hidden: int, vocabulary: int, legal: tuple[int, int], answered: int) -> Case:
    """Logits of ids that the answer holds already are made smaller; both branches are then multiplied."""
    lo, hi = legal
    settings = {"guidance": GUIDANCE, "top_k": 2048, "top_p": 0.8, "seed": 1, "step": 2}
    draw = _hugging_face((2048, 0.8))

    def make() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = torch.randint(lo, hi, (rows, answered), generator=torch.Generator().manual_seed(3))
        return *inputs.head(rows, hidden, vocabulary, torch.float32), seen

    def ours(cond: Tensor, uncond: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
        return cfg_head_sample(cond, uncond, weight, legal, **settings, repetition_penalty=PENALTY, seen=seen)

    def branches(cond: Tensor, uncond: Tensor, part: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        z = F.linear(cond, part)
        own = z.gather(1, places)
        return z.scatter(1, places, torch.where(own > 0, own / PENALTY, own * PENALTY)), F.linear(uncond, part)

    def check(ids: Tensor, cond: Tensor, uncond: Tensor, weight: Tensor, seen: Tensor) -> None:
        c, u = branches(cond.double(), uncond.double(), weight[lo:hi].double(), seen - lo)
        logits = u + GUIDANCE * (c - u)
        slack = logits.abs().amax(1, keepdim=True) * 1e-5
        kept = logits >= logits.topk(2048).values[:, -1:] - slack
        if not kept.gather(1, ids[:, None] - lo).all():
            raise RuntimeError("cfg_head_sample: an id was drawn that top-k leaves out")

    def products(cond: Tensor, uncond: Tensor, weight: Tensor, seen: Tensor) -> list[Tensor]:
        return [F.linear(hidden, weight[lo:hi]) for hidden in (cond, uncond)]

    def upstream(cond: Tensor, uncond: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
        return draw(*(z[:, lo:hi] for z in branches(cond, uncond, weight, seen))) + lo

    return Case(
        op="cfg_head_sample",
        name=f"{rows} x {hidden}, rows {lo} to {hi} of {vocabulary}, {answered} ids penalised",
        make=make,
        ours=ours,
        peers={
            **({"whole head on both branches + Hugging Face": upstream} if draw else {}),
            "only the products of the legal rows, torch": products,
        },
        check=check,
        bytes=4 * hidden * (hi - lo),
        operations=2 * 2 * rows * hidden * (hi - lo),
    )


_LEGAL = (151_936 + 16, 151_936 + 16 + 32768)  # the semantic codes of an ILLUME+ vocabulary

CASES = [
    _sample(64, 32768, 2048, 0.8),
    _sample(1, 32768, 2048, 0.8),
    _sample(64, 98304, 6144, 0.8),
    _sample(64, 98304, 1536, 0.8, then=(512, 0.8)),
    _sample(64, 16384, 2048, 1.0),
    _sample(64, 16384, 0, 1.0),
    _head(16, 256, 65536, (32768, 65536), torch.float32),
    _penalised(16, 256, 65536, (32768, 65536), 1000),
    _head(1, 2048, 283_047, _LEGAL, torch.bfloat16),
    _head(64, 2048, 283_047, _LEGAL, torch.bfloat16),
]
CURVES = [
    *(_sample(b, 32768, 2048, 0.8, curve=("cfg_sample, 32768 logits", "rows", b)) for b in (1, 4, 16, 64, 256)),
    *(_sample(16, v, 2048, 0.8, curve=("cfg_sample, 16 rows", "logits", v)) for v in (4096, 16384, 65536, 262144)),
]
