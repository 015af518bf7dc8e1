"""Loading a model within the memory there is, and the backend that its ops run on."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self, TypeVar

import torch

from illume_fast import ops
from illume_fast.data.errors import InputError
from illume_fast.data.memory import out_of_memory
from illume_fast.decoders import open_decoder
from illume_fast.decoding import Decoder
from illume_fast.diffusion import DiffusionSettings
from illume_fast.engine import EngineConfig
from illume_fast.jobs.config import DType
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint
from illume_fast.ops.dispatch import Backend, use_backend
from illume_fast.pipeline import IllumePipeline

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model by name, its parts that lie elsewhere, and what makes its pictures; as in `IllumePipeline`."""

    model: str = "demo"
    vision_tokenizer: str | None = None
    dtype: DType = "float32"
    decoder: str | None = None
    diffusion_steps: int | None = None
    diffusion_scheduler: str | None = None
    diffusion_guidance: float | None = None

    @classmethod
    def of(cls, options: Any) -> Self:
        """Those of an object's attributes that have the names of our fields."""
        return cls(**{f.name: getattr(options, f.name) for f in fields(cls) if hasattr(options, f.name)})

    @property
    def diffusion(self) -> DiffusionSettings | None:
        """How the diffusion decoder works; None where nothing is said."""
        given = {
            "steps": self.diffusion_steps,
            "scheduler": self.diffusion_scheduler,
            "guidance": self.diffusion_guidance,
        }
        said = {name: value for name, value in given.items() if value is not None}
        return DiffusionSettings(**said) if said else None  # type: ignore[arg-type]


def load_pipeline(source: ModelSource, batch_size: int = 64, device: str = "cpu") -> IllumePipeline:
    """Load a model with an engine of `batch_size` pictures, or of fewer where memory does not suffice.

    Raises:
        InputError: there is too little memory.
        CheckpointError: the model, its tokenizer or its decoder is missing or damaged.
    """
    dtype = getattr(torch, source.dtype)
    load = partial(load_checkpoint, source.model, dtype, device, vision_tokenizer=source.vision_tokenizer)
    checkpoint = _if_it_fits(load)
    if checkpoint is None:
        raise InputError(f"out of memory loading model {source.model} on {device}")
    decoder = _if_it_fits(partial(open_decoder, checkpoint, source.decoder, source.diffusion, dtype, device))
    if decoder is None:
        raise InputError(f"out of memory loading the decoder of model {source.model} on {device}")
    return largest(checkpoint, EngineConfig(max_batch=batch_size), decoder)


def largest(checkpoint: Checkpoint, config: EngineConfig, decoder: Decoder | None) -> IllumePipeline:
    """The pipeline of `config`, or of half its batch, and so on, where memory runs out. InputError if none fits."""
    while True:
        pipeline = _if_it_fits(partial(IllumePipeline, checkpoint, config, decoder))
        if pipeline is not None:
            return pipeline
        gc.collect()
        if config.max_batch == 1:
            raise InputError("out of memory making an engine of one picture at a time; what was done is kept")
        config = replace(config, max_batch=config.max_batch // 2)


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
