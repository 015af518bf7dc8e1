"""The loaded model, and the settings that a picture depends on."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image

from illume_fast import __version__, ops
from illume_fast.data.errors import InputError
from illume_fast.data.memory import out_of_memory
from illume_fast.data.prompts import Prompt, parse_size
from illume_fast.data.sizes import Size, format_size
from illume_fast.engine import EngineConfig, sample_seed
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Record
from illume_fast.model.checkpoint import load_checkpoint
from illume_fast.ops.dispatch import Backend, use_backend
from illume_fast.pipeline import Ask, IllumePipeline

T = TypeVar("T")


class Sampling(Protocol):
    """How ids are drawn."""

    @property
    def temperature(self) -> float | None: ...

    @property
    def top_k(self) -> int | None: ...

    @property
    def top_p(self) -> float | None: ...


class Painter:
    """A pipeline by its name, with what pictures of it depend on."""

    def __init__(self, pipeline: IllumePipeline, name: str) -> None:
        self.pipeline = pipeline
        self.name = name
        generation = pipeline.tasks.generation
        self.has_unconditional = generation.has_unconditional
        self.guidance = generation.guidance if generation.has_unconditional else 1.0
        self.edit_guidance = generation.edit_guidance if generation.has_unconditional else 1.0

    def check(self, config: JobConfig) -> None:
        """Raise InputError for a size that the model does not draw, or guidance that it cannot follow."""
        if config.size is not None:
            self.check_size(parse_size(config.size), "--size")
        if config.guidance not in (None, 1.0) and not self.has_unconditional:
            raise InputError(
                f"--guidance {config.guidance:g}: model {self.name} was trained without an unconditional prompt;"
                " allowed is 1"
            )

    def check_size(self, size: Size, origin: str) -> None:
        """Raise InputError, beginning with `origin`, for a size that the model does not draw."""
        try:
            self.pipeline.tasks.grid(size)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None

    def settings(self, sampling: Sampling) -> dict[str, Any]:
        """What a picture depends on beside its prompt, seed, guidance and size."""
        return {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "weights": self.pipeline.checkpoint.config.fingerprint,
        }

    def made_by(self) -> dict[str, Any]:
        """What is good to know of a picture's making and does not change it."""
        return {"model": self.name, "made_by": f"illume_fast {__version__}"}

    def wanted(self, prompt: Prompt, index: int, config: JobConfig) -> Record:
        """How the `index`-th picture of a row is to be made; the size of an edit is left to its source."""
        size = prompt.size or (None if config.size is None else parse_size(config.size))
        guidance = self.guidance if prompt.image is None else self.edit_guidance
        if size is None and prompt.image is None:
            size = self.pipeline.sizes[0]
        return {
            "id": prompt.id,
            "index": index,
            "prompt": prompt.prompt,
            **({} if prompt.image is None else {"image": str(prompt.image)}),
            "seed": sample_seed(config.seed if prompt.seed is None else prompt.seed, index),
            "guidance": guidance if config.guidance is None else config.guidance,
            **({} if size is None else {"size": format_size(size)}),
            **self.settings(config),
        }

    @property
    def batch_size(self) -> int:
        """Most pictures drawn at once."""
        return self.pipeline.engine.config.max_batch

    def shrink(self) -> None:
        """Draw half as many pictures at once, or as many as there is memory for an engine of.

        What the larger engine held is given back first.

        Raises:
            InputError: there is none for an engine of one picture.
        """
        checkpoint, config = self.pipeline.checkpoint, self.pipeline.engine.config
        del self.pipeline
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch_size = config.max_batch
        while batch_size > 1:
            batch_size //= 2
            pipeline = _if_it_fits(partial(IllumePipeline, checkpoint, replace(config, max_batch=batch_size)))
            if pipeline is not None:
                self.pipeline = pipeline
                return
        raise InputError("out of memory making an engine of one picture at a time; what was done is kept")

    def answer(self, prompt: str, picture: Image.Image | None, max_tokens: int | None) -> str:
        """What the model says to `prompt`."""
        images = () if picture is None else (picture,)
        (done,) = self.pipeline.generate_stream([Ask(prompt=prompt, images=images, max_new_tokens=max_tokens)])
        if done.error is not None:
            raise done.error
        return done.text or ""


@contextmanager
def load_painter(
    model: str,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Painter]:
    """Load a model, to be used inside the block on the backend that is named.

    Where there is no memory for an engine of `batch_size` pictures, `say` hears of the smaller one that is made.

    Raises:
        InputError: the backend is unknown, or cannot run what the block asks of it; or there is too little memory.
        CheckpointError: the model is missing or damaged.
    """
    with on_backend(backend):
        checkpoint = _if_it_fits(lambda: load_checkpoint(model, torch.float32, device))
        while checkpoint is not None:
            pipeline = _if_it_fits(partial(IllumePipeline, checkpoint, EngineConfig(max_batch=batch_size)))
            if pipeline is not None:
                yield Painter(pipeline, model)
                return
            if batch_size == 1:
                break
            batch_size //= 2
            say(f"out of memory for so many pictures at once; trying with {batch_size}")
        raise InputError(f"out of memory loading model {model} on {device}")


def _if_it_fits(make: Callable[[], T]) -> T | None:
    """What `make` returns, or None when memory ran out."""
    try:
        return make()
    except Exception as error:
        if not out_of_memory(error):
            raise
    return None


@contextmanager
def on_backend(name: str | None) -> Iterator[None]:
    """Run ops on a backend, by default that of ILLUME_FAST_BACKEND. InputError when it is unknown or lacks an op."""
    backend = name or os.environ.get("ILLUME_FAST_BACKEND") or None
    known = list(dict.fromkeys(choice.name for name in ops.__all__ for choice in _choices(name)))
    if backend is not None and backend not in known:
        raise InputError(f"unknown backend {backend!r}; the backends are {', '.join(known)}")
    try:
        with use_backend(backend):
            yield
    except RuntimeError as error:
        # an op that lacks the backend says so when it is called
        if backend is not None and f"backend {backend!r}" in str(error):
            raise InputError(str(error)) from error
        raise


def _choices(name: str) -> tuple[Backend, ...]:
    return getattr(getattr(ops, name), "choices", ())
