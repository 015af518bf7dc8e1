"""The loaded model, and the rows of a prompt file as tasks for it with a record for each picture."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from illume_fast import __version__, ops
from illume_fast.commands.options import DrawOptions, ModelOptions, SamplingOptions
from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_picture
from illume_fast.data.prompts import Prompt
from illume_fast.data.results import Record
from illume_fast.data.sizes import Size, format_size, nearest_size
from illume_fast.engine import EngineConfig, sample_seed
from illume_fast.ops.dispatch import Backend, use_backend
from illume_fast.pipeline import Ask, Draw, IllumePipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All pictures of one prompt: `records[k]` says how the k-th is made, which is also what is kept of it."""

    prompt: Prompt
    size: Size | None
    guidance: float
    sampling: dict[str, Any]
    records: list[Record]


class Painter:
    """A pipeline that makes pictures of jobs, and answers questions."""

    def __init__(self, pipeline: IllumePipeline, name: str) -> None:
        self.pipeline = pipeline
        self.name = name
        generation = pipeline.tasks.generation
        self.guidance = generation.guidance if generation.has_unconditional else 1.0
        self.edit_guidance = generation.edit_guidance if generation.has_unconditional else 1.0

    def settings(self, options: SamplingOptions) -> dict[str, Any]:
        """What a picture depends on beside its prompt, seed, guidance and size."""
        return {
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "weights": self.pipeline.checkpoint.config.fingerprint,
        }

    def made_by(self) -> dict[str, Any]:
        """What is good to know of a picture's making and does not change it."""
        return {"model": self.name, "made_by": f"illume_fast {__version__}"}

    def job(self, prompt: Prompt, options: DrawOptions, size: Size | None) -> Job:
        """The pictures that a row and the options ask for.

        Raises:
            InputError: the model does not draw this size, or takes no guidance.
        """
        drawn, guidance = self._size(prompt, size), self._guidance(prompt, options.guidance)
        sampling = {key: getattr(options, key) for key in ("temperature", "top_k", "top_p")}
        seed = options.seed if prompt.seed is None else prompt.seed
        records: list[Record] = [
            {
                "id": prompt.id,
                "index": index,
                "file": f"images/{prompt.id}_{index}.png",
                "prompt": prompt.prompt,
                **({} if prompt.image is None else {"image": str(prompt.image)}),
                "seed": sample_seed(seed, index),
                "guidance": guidance,
                "size": format_size(drawn),
                **self.settings(options),
            }
            for index in range(prompt.num_images or options.num_images)
        ]
        return Job(prompt=prompt, size=prompt.size or size, guidance=guidance, sampling=sampling, records=records)

    def draw(self, wanted: Sequence[tuple[Job, Sequence[int]]]) -> Iterator[tuple[Record, Image.Image]]:
        """Yield the pictures of `wanted`, jobs with the numbers of their pictures, as they finish.

        Raises:
            InputError: some could not be drawn; said after all others are.
        """
        tasks = (
            Draw(
                prompt=job.prompt.prompt,
                image=None if job.prompt.image is None else load_picture(job.prompt.image, job.prompt.origin),
                size=job.size,
                guidance=job.guidance,
                # every record has its own seed, so that any picture can be drawn without the others
                seed=job.records[index]["seed"],
                id=job.records[index]["file"],
                tag=job.records[index],
                **job.sampling,
            )
            for job, indices in wanted
            for index in indices
        )
        failed: list[Exception] = []
        for done in self.pipeline.generate_stream(tasks):
            if done.error is not None:
                failed.append(done.error)
            else:
                yield {**done.task.tag, **self.made_by()}, done.picture
        if failed:
            more = f" (and {len(failed) - 1} more could not be drawn)" if len(failed) > 1 else ""
            raise InputError(f"{failed[0]}{more}")

    def answer(self, prompt: str, picture: Image.Image | None, max_tokens: int | None) -> str:
        """What the model says to `prompt`."""
        images = () if picture is None else (picture,)
        (done,) = self.pipeline.generate_stream([Ask(prompt=prompt, images=images, max_new_tokens=max_tokens)])
        if done.error is not None:
            raise done.error
        return done.text or ""

    def _size(self, prompt: Prompt, size: Size | None) -> Size:
        """The size to draw; a picture that is to be edited is read once here, so that a bad one is known at once."""
        source = None if prompt.image is None else load_picture(prompt.image, prompt.origin)
        wanted = prompt.size or size
        if wanted is None:
            own = self.pipeline.sizes
            return own[0] if source is None else nearest_size((source.height, source.width), own)
        try:
            self.pipeline.tasks.grid(wanted)
        except InputError as error:
            raise InputError(f"{prompt.origin if prompt.size else '--size'}: {error}") from None
        return wanted

    def _guidance(self, prompt: Prompt, guidance: float | None) -> float:
        if guidance not in (None, 1.0) and not self.pipeline.tasks.generation.has_unconditional:
            raise InputError(
                f"--guidance {guidance:g}: model {self.name} was trained without an unconditional prompt; allowed is 1"
            )
        if guidance is not None:
            return guidance
        return self.guidance if prompt.image is None else self.edit_guidance


@contextmanager
def load_painter(options: ModelOptions, batch_size: int = 64) -> Iterator[Painter]:
    """Load the model that the options name, to be used inside the block on the backend that they name.

    Raises:
        InputError: the backend is unknown, or cannot run what the block asks of it.
        CheckpointError: the model is missing or damaged.
    """
    backend = options.backend or os.environ.get("ILLUME_FAST_BACKEND") or None
    known = list(dict.fromkeys(choice.name for name in ops.__all__ for choice in _choices(name)))
    if backend is not None and backend not in known:
        raise InputError(f"unknown backend {backend!r}; the backends are {', '.join(known)}")
    pipeline = IllumePipeline.from_pretrained(options.model, engine=EngineConfig(max_batch=batch_size))
    try:
        with use_backend(backend):
            yield Painter(pipeline, options.model)
    except RuntimeError as error:
        # an op that lacks the backend says so when it is called
        if backend is not None and f"backend {backend!r}" in str(error):
            raise InputError(str(error)) from error
        raise


def _choices(name: str) -> tuple[Backend, ...]:
    return getattr(getattr(ops, name), "choices", ())
