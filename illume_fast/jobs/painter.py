"""The loaded model, and the settings that a picture depends on."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

from illume_fast import __version__
from illume_fast.data.errors import InputError
from illume_fast.data.prompts import Prompt, parse_size
from illume_fast.data.sampling_presets import sampling_preset
from illume_fast.data.sizes import Size, format_size
from illume_fast.diffusion import DiffusionPictures
from illume_fast.engine import sample_seed
from illume_fast.jobs.config import JobConfig, option
from illume_fast.jobs.ledger import Record
from illume_fast.jobs.loading import ModelSource, largest, load_pipeline, on_backend
from illume_fast.pipeline import IllumePipeline
from illume_fast.records import dtype_record

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
    def diffusion_scheduler(self) -> str | None: ...

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
        for field in ("diffusion_steps", "diffusion_scheduler", "diffusion_guidance"):
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
            "dtype": dtype_record(self.pipeline.checkpoint),
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
        self.pipeline = largest(checkpoint, replace(config, max_batch=max(1, config.max_batch // 2)), decoder)


def _first(*values: T | None) -> T | None:
    """The first of the values that was given."""
    return next((value for value in values if value is not None), None)


@contextmanager
def load_painter(
    source: ModelSource,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Painter]:
    """Load a model, to be used inside the block on the backend that is named.

    Where there is no memory for an engine of `batch_size` pictures, `say` hears of the smaller one that is made.

    Raises:
        InputError: the backend is unknown, or cannot run what the block asks of it; or there is too little memory.
        CheckpointError: the model or the decoder is missing or damaged.
    """
    with on_backend(backend):
        # held by the painter alone, so that it can let go of it
        painter = Painter(load_pipeline(source, batch_size, device), source.model)
        if painter.batch_size < batch_size:
            say(f"out of memory for {batch_size} pictures at once; going on with {painter.batch_size}")
        yield painter
