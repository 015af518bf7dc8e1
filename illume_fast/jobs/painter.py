"""The loaded model, and the settings that a picture depends on."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from illume_fast import __version__, ops
from illume_fast.data.errors import InputError
from illume_fast.data.memory import out_of_memory
from illume_fast.data.prompts import Prompt, parse_size
from illume_fast.data.sampling_presets import sampling_preset
from illume_fast.data.sizes import Size, format_size
from illume_fast.decoders import open_decoder
from illume_fast.decoding import Decoder
from illume_fast.diffusion import DiffusionPictures, DiffusionSettings
from illume_fast.engine import EngineConfig, sample_seed
from illume_fast.jobs.config import JobConfig, option
from illume_fast.jobs.ledger import Record
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint
from illume_fast.ops.dispatch import Backend, use_backend
from illume_fast.pipeline import IllumePipeline

T = TypeVar("T")

# as in the records of pictures that were made before there was a choice
NO_DIFFUSION = {"decoder": None, "diffusion_steps": None, "diffusion_guidance": None}


class Sampling(Protocol):
    """How ids are drawn."""

    @property
    def sampling(self) -> str | None: ...

    @property
    def temperature(self) -> float | None: ...

    @property
    def top_k(self) -> int | None: ...

    @property
    def top_p(self) -> float | None: ...


class Diffused(Protocol):
    """How a diffusion decoder works; what is None was not said."""

    @property
    def diffusion_steps(self) -> int | None: ...

    @property
    def diffusion_guidance(self) -> float | None: ...


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
        """Raise InputError for a size that the model does not draw, or guidance that it cannot follow.

        CheckpointError where the model was loaded without what makes its pictures.
        """
        self.check_decoder(config)
        if config.size is not None:
            self.check_size(parse_size(config.size), "--size")
        if config.guidance not in (None, 1.0) and not self.has_unconditional:
            raise InputError(
                f"--guidance {config.guidance:g}: model {self.name} was trained without an unconditional prompt;"
                " allowed is 1"
            )
        for field, unguided in (("negative_prompt", None), ("guidance_from", 0), ("guidance_until", None)):
            if getattr(config, field) != unguided and not self.has_unconditional:
                raise InputError(
                    f"{option(field)}: model {self.name} was trained without an unconditional prompt, which guidance"
                    " needs; leave it out"
                )

    def check_decoder(self, wanted: Diffused) -> None:
        """Raise CheckpointError where there is nothing that makes pictures, InputError for settings it has not."""
        self.pipeline.pictures.check()
        for field in ("diffusion_steps", "diffusion_guidance"):
            if getattr(wanted, field) is not None and not isinstance(self.pipeline.pictures, DiffusionPictures):
                raise InputError(
                    f"{option(field)}: the pictures of model {self.name} come from its pixel decoder; give --decoder,"
                    " or leave it out"
                )

    def check_size(self, size: Size, origin: str) -> None:
        """Raise InputError, beginning with `origin`, for a size that the model does not draw."""
        try:
            self.pipeline.tasks.grid(size)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None

    def settings(self, sampling: Sampling) -> dict[str, Any]:
        """What a picture depends on beside its prompt, seed, guidance and size."""
        decoder = self.pipeline.pictures
        return {
            # None, as in the records of pictures that were made before there were presets
            "sampling": sampling.sampling,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "weights": self.pipeline.checkpoint.config.fingerprint,
            **(decoder.record() if isinstance(decoder, DiffusionPictures) else NO_DIFFUSION),
        }

    def made_by(self) -> dict[str, Any]:
        """What is good to know of a picture's making and does not change it."""
        return {"model": self.name, "made_by": f"illume_fast {__version__}"}

    def wanted(self, prompt: Prompt, index: int, config: JobConfig) -> Record:
        """How the `index`-th picture of a row is to be made; the size of an edit is left to its source."""
        size = prompt.size or (None if config.size is None else parse_size(config.size))
        if size is None and prompt.image is None:
            size = self.pipeline.sizes[0]
        return {
            "id": prompt.id,
            "index": index,
            "prompt": prompt.prompt,
            **({} if prompt.image is None else {"image": str(prompt.image)}),
            "seed": sample_seed(config.seed if prompt.seed is None else prompt.seed, index),
            **self._guided(prompt, config),
            **({} if size is None else {"size": format_size(size)}),
            **self.settings(config),
        }

    def _guided(self, prompt: Prompt, config: JobConfig) -> Record:
        default = self.guidance if prompt.image is None else self.edit_guidance
        preset = sampling_preset(config.sampling, editing=prompt.image is not None)
        if preset is not None and self.has_unconditional:
            default = preset.guidance
        return {
            "guidance": _first(prompt.guidance, config.guidance, default),
            "negative_prompt": _first(prompt.negative_prompt, config.negative_prompt),
            # None, as in the records of pictures that were made before there were stretches
            "guidance_from": _first(prompt.guidance_from, config.guidance_from) or None,
            "guidance_until": _first(prompt.guidance_until, config.guidance_until),
        }

    @property
    def batch_size(self) -> int:
        """Most pictures drawn at once."""
        return self.pipeline.engine.config.max_batch

    def shrink(self) -> None:
        """Draw half as many pictures at once, or fewer; what the larger engine held is given back first.

        Raises:
            InputError: there is no memory even for one picture at a time.
        """
        checkpoint, config = self.pipeline.checkpoint, self.pipeline.engine.config
        decoder = self.pipeline.pictures
        del self.pipeline
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.pipeline = _largest(checkpoint, replace(config, max_batch=max(1, config.max_batch // 2)), decoder)


def _first(*values: T | None) -> T | None:
    """The first of the values that was given."""
    return next((value for value in values if value is not None), None)


@contextmanager
def load_painter(
    model: str,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    decoder: str | None = None,
    diffusion: DiffusionSettings | None = None,
) -> Iterator[Painter]:
    """Load a model, to be used inside the block on the backend that is named; `decoder` as in `open_decoder`.

    Where there is no memory for an engine of `batch_size` pictures, `say` hears of the smaller one that is made.

    Raises:
        InputError: the backend is unknown, or cannot run what the block asks of it; or there is too little memory.
        CheckpointError: the model or the decoder is missing or damaged.
    """
    with on_backend(backend):
        checkpoint = _if_it_fits(lambda: load_checkpoint(model, torch.float32, device))
        if checkpoint is None:
            raise InputError(f"out of memory loading model {model} on {device}")
        pictures = open_decoder(checkpoint, decoder, diffusion, device=device)
        # held by the painter alone, so that it can let go of it
        painter = Painter(_largest(checkpoint, EngineConfig(max_batch=batch_size), pictures), model)
        if painter.batch_size < batch_size:
            say(f"out of memory for {batch_size} pictures at once; going on with {painter.batch_size}")
        yield painter


def diffusion_settings(config: Diffused) -> DiffusionSettings | None:
    """How a job's diffusion decoder works; None where nothing is said."""
    given = {"steps": config.diffusion_steps, "guidance": config.diffusion_guidance}
    said = {name: value for name, value in given.items() if value is not None}
    return DiffusionSettings(**said) if said else None  # type: ignore[arg-type]


def _largest(checkpoint: Checkpoint, config: EngineConfig, decoder: Decoder | None) -> IllumePipeline:
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
