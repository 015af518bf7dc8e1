"""The demo model: the engine beside its first version, and samples that share their prompt."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine.contest import Contest, once
from illume_fast.bench.engine.first import as_first_reads, first_version
from illume_fast.bench.engine.floor import Work, decode_step, reading
from illume_fast.bench.engine.guided import answers
from illume_fast.bench.engine.share import outside_share
from illume_fast.bench.outside import Outside
from illume_fast.engine import Engine, EngineConfig, Request
from illume_fast.engine.request import OnStep
from illume_fast.model.checkpoint import read_config, resolve
from illume_fast.model.config import DecoderConfig
from illume_fast.pipeline import Done, Draw, IllumePipeline

PROMPTS = (
    "red apple", "strawberry", "hamburger", "birthday cake", "hot beverage", "tiger face", "whale", "turtle",
    "sunflower", "cactus", "octopus", "rainbow", "full moon face", "airplane", "sailboat", "rocket", "fire engine",
    "house", "soccer ball", "violin", "trophy", "alarm clock", "key", "umbrella", "red heart", "ghost",
    "smiling face with sunglasses", "waving hand: medium-dark skin tone", "woman running: medium skin tone",
    "man astronaut: dark skin tone", "person in lotus position: medium-light skin tone", "keycap: 7",
)  # fmt: skip
PROMPT_LENGTHS = 39, 30  # tokens of "red apple", and of the prompt of the other branch
CODES = 16, 64  # semantic and pixel ones of a picture
_GOALS = {(64, 64): 3.0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Made:
    """A pipeline, what it is to draw, whether to pixels, and the first version doing the same, or why it cannot."""

    pipeline: IllumePipeline
    tasks: Sequence[tuple[str, int]]
    decode: bool
    first: Outside | str

    def draw(self, *, decode: bool, temperature: float | None = None, on_step: OnStep | None = None) -> list[Done]:
        """All pictures, in the order of the tasks."""
        draws = (Draw(prompt=p, seed=s, tag=i, temperature=temperature) for i, (p, s) in enumerate(self.tasks))
        done = list(self.pipeline.generate_stream(draws, on_step, decode=decode))
        for d in done:
            if d.error is not None:
                raise d.error
        return sorted(done, key=lambda d: d.task.tag)


def tasks(count: int) -> list[tuple[str, int]]:
    """(prompt, seed) of `count` pictures."""
    return [(PROMPTS[i % len(PROMPTS)], i) for i in range(count)]


def make(count: int, batch: int, *, decode: bool, with_first: bool = True) -> Callable[[str, ExitStack], Made]:
    """What makes `count` pictures, `batch` together."""

    def made(device: str, stack: ExitStack) -> Made:
        pipeline = IllumePipeline.from_pretrained("demo", device=device, engine=EngineConfig(max_batch=batch))
        first = _first(stack, tasks(count), batch, decode) if with_first else "not asked for"
        return Made(pipeline=pipeline, tasks=tasks(count), decode=decode, first=first)

    return made


def _first(stack: ExitStack, wanted: list[tuple[str, int]], batch: int, decode: bool) -> Outside | str:
    try:
        folder = first_version()
    except (RuntimeError, OSError) as error:
        return str(error)
    here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="illume_fast_bench_")))
    file, model = here / "tasks.json", as_first_reads(resolve("demo"), here / "model")
    file.write_text(json.dumps(wanted), encoding="utf-8")
    options = str(model), str(file), str(batch), "decoded" if decode else "codes"
    environment = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    return stack.enter_context(Outside("first_engine", options, environment=environment))


def check(made: Made) -> None:
    """Greedy pictures are those of the first version, code for code."""
    if isinstance(made.first, str):
        return
    done = made.draw(decode=False, temperature=0.0)
    wrong = (torch.stack([_codes(d) for d in done]) != made.first.result).any(1)
    if wrong.any():
        raise RuntimeError(f"engine: {int(wrong.sum())} of {len(done)} greedy pictures differ from the first version's")


def _codes(done: Done) -> Tensor:
    assert done.codes is not None
    return torch.cat([done.codes.semantic.flatten(), done.codes.pixel.flatten()])


def our_turn(made: Made) -> Turn:
    """All pictures, with the reading of their prompts."""

    def draw() -> None:
        made.pipeline.engine.clear()
        made.draw(decode=made.decode)

    return once(draw)


def _first_turn(made: Made, stack: ExitStack) -> Turn:
    if isinstance(made.first, str):
        raise RuntimeError(made.first)
    return made.first.turn


def share(made: Made) -> dict[str, Any]:
    """How much of the time passes outside the kernels while codes are drawn."""
    return {"outside_share": outside_share(lambda on_step: made.draw(decode=False, on_step=on_step))}


def demo_config() -> DecoderConfig:
    """The demo's decoder."""
    return read_config(resolve("demo")).model.decoder


def drawing_work(count: int, batch: int, *, prompts: Sequence[int] = ()) -> Work:
    """`count` pictures, `batch` together, with the reading of their prompts; of these lengths, or of the usual one."""
    levels = read_config(resolve("demo")).model.vocab.levels
    drawn = [CODES[i] * (hi - lo) for i, (lo, hi) in enumerate(levels)]
    steps = sum(CODES)
    contexts = [length + steps / 2 for length in PROMPT_LENGTHS]
    config = demo_config()
    work = Work()
    for together in [batch] * (count // batch) + [count % batch] * bool(count % batch):
        read = reading(config, prompts or [PROMPT_LENGTHS[0]] * together, itemsize=4)
        work += decode_step(config, contexts, batch=together, head_rows=sum(drawn) / steps, itemsize=4) * steps + read
    return work


def pictures(count: int, batch: int, *, decode: bool, with_first: bool = True) -> Contest:
    """`count` pictures, `batch` together."""
    work = drawing_work(count, batch)
    return Contest(
        op="engine",
        name=f"demo model, {count} pictures, batch {batch}" + (", decoded to pixels" if decode else ""),
        make=make(count, batch, decode=decode, with_first=with_first),
        check=check,
        ours=our_turn,
        peers={"first version": _first_turn} if with_first else {},
        notes=None if decode else share,
        pictures=count,
        goal=_GOALS.get((count, batch), 0.0) if with_first else 0.0,
        **work.whole,
    )


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one prompt, each a request; and two engines on the same weights, one of which shares no prompt."""

    requests: list[Request]
    sharing: Engine
    apart: Engine


def make_samples(count: int) -> Callable[[str, ExitStack], Samples]:
    """What makes `count` samples of a prompt."""

    def made(device: str, stack: ExitStack) -> Samples:
        pipeline = IllumePipeline.from_pretrained("demo", device=device, engine=EngineConfig(max_batch=count))
        requests = pipeline.tasks.requests(Draw(prompt=PROMPTS[0], samples=range(count)))
        requests = [replace(request, id=str(i)) for i, request in enumerate(requests)]
        sharing = pipeline.engine
        return Samples(requests, sharing, Engine(sharing.model, replace(sharing.config, share=False)))

    return made


def check_samples(made: Samples) -> None:
    """Each sample is the same, whether prompts are shared or not."""
    if not torch.equal(answers(made.sharing, made.requests), answers(made.apart, made.requests)):
        raise RuntimeError("engine: samples that share a prompt are not those drawn from prompts of their own")


def draw_samples(made: Samples) -> Tensor:
    """All samples, with the reading of their prompt."""
    made.sharing.clear()
    return answers(made.sharing, made.requests)


def samples(count: int) -> Contest:
    """`count` samples of one prompt; the peer is our engine, reading a prompt for each branch of each sample."""
    return Contest(
        op="engine",
        name=f"demo model, {count} samples of one prompt",
        make=make_samples(count),
        check=check_samples,
        ours=lambda made: once(lambda: draw_samples(made)),
        peers={f"{count} prompts unshared": lambda made, stack: once(lambda: answers(made.apart, made.requests))},
        pictures=count,
        **drawing_work(count, count, prompts=PROMPT_LENGTHS).whole,
    )


def curve(batch: int, axis: str) -> Contest:
    """`batch` pictures drawn together, decoded to pixels; no peers."""
    contest = pictures(batch, batch, decode=True, with_first=False)
    return replace(contest, notes=share, scale=("demo model", axis, batch))


CONTESTS = [
    *(pictures(64, batch, decode=False) for batch in (1, 16, 64)),
    pictures(64, 64, decode=True),
    replace(samples(16), goal=1.3),
]
