"""Contests on decoders of random weights: guided pairs, ours beside `transformers`."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine import hugging_face
from illume_fast.bench.engine.greedy import NEAR_TIE, same_greedy
from illume_fast.bench.engine.share import outside_share
from illume_fast.engine import GREEDY, Engine, EngineConfig, Plan, Request, SamplingParams, Segment
from illume_fast.engine.request import OnStep
from illume_fast.model.config import DecoderConfig
from illume_fast.model.decoder import CausalLM

_PAGE = 16
_COMPARED = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Guided:
    """`batch` pictures drawn together: each with a prompt of its own, and one unconditional prompt for all."""

    model: CausalLM
    engine: Engine
    plan: Plan
    sampling: SamplingParams
    prompts: list[tuple[int, ...]]
    unconditional: tuple[int, ...]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """The prompts of all streams, as the peer takes them."""
        return [*self.prompts, *[self.unconditional] * len(self.prompts)]

    def greedy(self) -> "Guided":
        """The same with greedy draws."""
        return replace(self, sampling=SamplingParams((GREEDY,) * len(self.sampling.sets), self.sampling.guidance))

    def requests(self) -> list[Request]:
        """What the engine is asked."""
        return [
            Request(
                id=str(i),
                prompt=(Segment(prompt),),
                unconditional=(Segment(self.unconditional),),
                plan=self.plan,
                sampling=self.sampling,
                seed=i,
            )
            for i, prompt in enumerate(self.prompts)
        ]

    def draw(self, on_step: OnStep | None = None) -> Tensor:
        """Our answers [B, S]."""
        return answers(self.engine, self.requests(), on_step)

    def draw_anew(self) -> Tensor:
        """The same, with the reading of all prompts."""
        self.engine.clear()
        return self.draw()


def answers(engine: Engine, requests: list[Request], on_step: OnStep | None = None) -> Tensor:
    """The answers [B, S] to requests of one length and one sample each, in their order."""
    found = {}
    for result in engine.generate(requests, on_step):
        if result.error is not None:
            raise result.error
        found[result.request.id] = result.ids
    return torch.stack([found[request.id] for request in requests])


@lru_cache(maxsize=1)
def random_model(config: DecoderConfig, dtype: torch.dtype, device: str) -> CausalLM:
    """A decoder with random weights, made on the device; the last one is kept.

    Matrices keep the size of what goes through them, so that what is drawn depends on prompt and history.
    """
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = CausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.normal_(std=weight.shape[1] ** -0.5)
    return model


def make(
    config: DecoderConfig,
    dtype: torch.dtype,
    plan: Plan,
    sampling: SamplingParams,
    *,
    batch: int,
    prompt: int,
    unconditional: int,
    **engine: Any,
) -> Callable[[str, ExitStack], Guided]:
    """What makes a `Guided` on a device, with random prompts of ids below 1000 and a cache just large enough.

    `engine` goes to the `EngineConfig`.
    """

    def made(device: str, stack: ExitStack) -> Guided:
        gen = torch.Generator().manual_seed(1)

        def ids(length: int) -> tuple[int, ...]:
            return tuple(torch.randint(1, min(1000, config.vocab_size), (length,), generator=gen).tolist())

        model = random_model(config, dtype, device)
        # prompts are kept beside the streams, which share their full pages
        tokens = batch * (prompt + unconditional + 2 * (len(plan) + 2 * _PAGE)) + unconditional + 2 * _PAGE
        settings = EngineConfig(max_batch=batch, cache_tokens=tokens, page_size=_PAGE, **engine)
        prompts = [ids(prompt) for _ in range(batch)]
        return Guided(
            model=model,
            engine=Engine(model, settings),
            plan=plan,
            sampling=sampling,
            prompts=prompts,
            unconditional=ids(unconditional),
        )

    return made


def check(made: Guided) -> None:
    """Greedy answers are those of `transformers`, where it is installed, or differ by rounding; some are compared."""
    if find_spec("transformers") is None:
        return
    greedy = made.greedy()
    ours = greedy.draw().cpu()[:_COMPARED]
    theirs = _theirs(replace(greedy, prompts=greedy.prompts[:_COMPARED]))
    model = hugging_face.mirror(made.model)

    def logits(row: int, step: int) -> Tensor:
        where = greedy.plan.sites[int(greedy.plan.site[step])]
        prompts = greedy.prompts[row], greedy.unconditional
        answer = theirs[row, :step].to(made.model.head_weight.device)
        legal = hugging_face.mixed_logits(model, prompts, answer, where.lo, where.hi, greedy.sampling.guidance)
        scores = torch.full((made.engine.vocab_size,), -torch.inf)
        scores[where.lo : where.hi] = legal.cpu()
        return scores

    same_greedy("engine", ours, theirs, logits, NEAR_TIE[str(made.model.head_weight.dtype)])


def _theirs(made: Guided) -> Tensor:
    draw = hugging_face.Draw(made.plan, made.sampling)
    return hugging_face.generate(hugging_face.mirror(made.model), made.rows, draw).cpu()


_SETTLED = 3  # steps until decoding goes its even pace: the prompts', and what is made when first needed


def our_steps(made: Guided) -> Turn:
    """Seconds of each step while all pictures are drawn."""

    def turn() -> list[float]:
        times: list[float] = []
        made.draw(lambda progress: times.append(time.perf_counter()))
        return _between(times)

    return turn


def share_of_steps(made: Guided) -> dict[str, Any]:
    """How much of the time of such steps passes outside the kernels."""
    return {"outside_share": outside_share(made.draw, _SETTLED + 1)}


def their_steps(*, compiled: bool = False) -> Callable[[Guided, ExitStack], Turn]:
    """The same of `transformers`; `compiled` runs the forward pass of a step through torch.compile.

    Prompts are read once for all turns, since steps alone are timed.
    """

    def peer(made: Guided, stack: ExitStack) -> Turn:
        model = hugging_face.mirror(made.model)
        cache = hugging_face.read(model, made.rows, len(made.plan))
        if compiled:
            model.forward = torch.compile(model.forward, dynamic=False)

        def turn() -> list[float]:
            draw = hugging_face.Draw(made.plan, made.sampling)
            hugging_face.generate(model, made.rows, draw, cache=cache)
            return _between(draw.times)

        return turn

    return peer


def _between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)][_SETTLED:]
