"""A small random decoder, requests for it, and the answer drawn the slow and obvious way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.engine import (
    GREEDY,
    Engine,
    EngineConfig,
    Plan,
    Request,
    Result,
    SamplingParams,
    SamplingSet,
    SecondChain,
    Segment,
    Site,
    sample_seed,
)
from illume_fast.model.attention import CausalAttention
from illume_fast.model.config import DecoderConfig
from illume_fast.model.decoder import CausalLM
from illume_fast.ops.cfg_sample import cfg_sample

VOCAB, HIDDEN = 64, 32
COARSE, FINE = Site(((20, 36),), set=0), Site(((36, 64),), set=1)
WORDS = Site(((0, 9), (10, 20)), set=2)
# two levels of rows with forced ids between, before and after, as a picture has
PICTURE = Plan.of([1, 2, COARSE, COARSE, 3, COARSE, COARSE, 3, 4, 5, *[FINE, FINE, FINE, 3] * 3, 6, 7])
SMALL = Plan.of([1, COARSE, FINE, FINE, 7])
TEXT = Plan.text(WORDS.ranges, max_tokens=12, stop_ids=[7, 12], set=2)
UNCONDITIONAL = (Segment((8, 9, 10, 11, 12)),)
SETS = (SamplingSet(), SamplingSet(temperature=0.7, top_k=9, top_p=0.9), SamplingSet(min_p=0.02))


def small_model(seed: int = 0, **changes: object) -> CausalLM:
    sizes = {
        "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    config = DecoderConfig(vocab_size=VOCAB, **{**sizes, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CausalLM(config)
        for parameter in model.parameters():
            # far from uniform, so that a wrong key or position changes what is drawn
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
    return model.eval().requires_grad_(False)


def small_engine(model: CausalLM | None = None, **changes: object) -> Engine:
    sizes = {"max_batch": 8, "cache_tokens": 2048, "page_size": 4, "read_tokens": 64}
    return Engine(model or small_model(), EngineConfig(**{**sizes, **changes}))


def ids_of(seed: int, length: int) -> tuple[int, ...]:
    return tuple(torch.randint(0, 20, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def ask(
    name: int, *, plan: Plan = PICTURE, guidance: float = 1.0, length: int | None = None, greedy: bool = False, **rest
) -> Request:
    """Request `name`; its prompt's length, content and seed follow from the name."""
    sampling = SamplingParams(sets=(GREEDY,) * 3 if greedy else SETS, guidance=guidance)
    prompt = (Segment(ids_of(name, 3 + 5 * name % 17 if length is None else length)),)
    settings = {"prompt": prompt, "unconditional": UNCONDITIONAL, "seed": name, "sampling": sampling, **rest}
    return Request(id=f"request {name}", plan=plan, **settings)


def features_of(key: str, length: int) -> Segment:
    seed = sum(map(ord, key))
    return Segment(features=torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(seed)), key=key)


def run(engine: Engine, requests: list[Request]) -> dict[tuple[str, int], list[int]]:
    """Ids of every sample; fails on the first error."""
    results = {}
    for result in engine.generate(requests):
        if result.error is not None:
            raise result.error
        results[result.request.id, result.sample] = result.ids.tolist()
    return results


def errors(results: list[Result]) -> dict[str, str]:
    return {result.request.id: str(result.error) for result in results if result.error is not None}


@torch.no_grad()
def drawn_plainly(model: CausalLM, request: Request, sample: int = 0, noise: str = "inverse") -> list[int]:
    """A whole forward pass per branch and token, full logits, and `cfg_sample` on the legal ones."""
    ids: list[int] = []
    plan, sampling = request.plan, request.sampling
    while len(ids) < len(plan):
        step = len(ids)
        site = int(plan.site[step])
        if site < 0:
            ids.append(int(plan.forced[step]))
            continue
        where, settings = plan.sites[site], sampling.sets[plan.sites[site].set]
        until = len(plan) if sampling.guidance_until is None else sampling.guidance_until
        guided = request.guided and sampling.guidance_from <= step < until
        conditional = _last_logits(model, request.prompt, ids)
        unconditional = _last_logits(model, request.unconditional or request.prompt, ids)
        illegal = torch.tensor([not any(lo <= i < hi for lo, hi in where.ranges) for i in range(where.lo, where.hi)])
        conditional, unconditional = (
            logits[:, where.lo : where.hi].masked_fill(illegal, -torch.inf) for logits in (conditional, unconditional)
        )
        conditional = penalized(conditional, sampling.repetition_penalty, ids, where.lo)
        then = sampling.then or SecondChain()
        drawn = cfg_sample(
            conditional,
            unconditional if guided else None,
            guidance=sampling.guidance_of(settings) if guided else 1.0,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            seed=sample_seed(request.seed, sample),
            step=step,
            noise=noise,
            then_temperature=then.temperature,
            then_top_k=then.top_k,
            then_top_p=then.top_p,
        )
        ids.append(where.lo + int(drawn))
        if ids[-1] in plan.stop_ids:
            break
        if ids[-1] in plan.inserts:
            plan = plan.with_insert(step, ids[-1])
    return ids


def penalized(logits: Tensor, penalty: float, ids: list[int], lo: int) -> Tensor:
    """Logits [1, n] of ids from `lo` on, those among `ids` divided by the penalty, or multiplied where negative."""
    known = torch.tensor([i in ids for i in range(lo, lo + logits.shape[1])])
    return torch.where(known, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _last_logits(model: CausalLM, prompt: tuple[Segment, ...], answer: list[int]) -> Tensor:
    parts = [model.embed(torch.tensor(s.ids, dtype=torch.int64)) if s.features is None else s.features for s in prompt]
    embeds = torch.cat([*parts, model.embed(torch.tensor(answer, dtype=torch.int64))])
    hidden = model.decoder(embeds[None], torch.arange(len(embeds))[None], CausalAttention())
    return F.linear(hidden[:, -1], model.head_weight)
