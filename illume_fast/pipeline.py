"""`IllumePipeline`: prompts, pictures and questions in; pictures and words out. Called like a diffusers pipeline."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor

from illume_fast.data.errors import InputError
from illume_fast.data.image import to_picture, unpad
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.engine import Engine, EngineConfig, Progress, Request, Result
from illume_fast.engine.request import OnStep
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint
from illume_fast.model.fused import lay_together
from illume_fast.model.movqgan import to_uint8
from illume_fast.model.quantized import quantize as quantize_weights
from illume_fast.tasks import Ask, Draw, Tasks, Wanted

__all__ = ["Ask", "Done", "Draw", "IllumePipeline", "PipelineOutput"]

OutputType = Literal["pil", "pt", "codes"]
StepCallback = Callable[["IllumePipeline", int, int, dict[str, Any]], Any]
# pictures decoded together, always as many: convolutions add up in another order in a batch of another size. Two are
# enough to keep a CPU busy
_DECODED_TOGETHER = {"cpu": 2}
_DECODED_ON_ACCELERATORS = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Done:
    """A finished sample of a task: `pixels` uint8 [3, H, W] and `codes` of a picture, or the `text` of an answer.

    When it failed, `error` says why, naming the task.
    """

    task: Draw | Ask
    sample: int
    seed: int
    pixels: Tensor | None = None
    codes: ImageCodes | None = None
    text: str | None = None
    error: Exception | None = None

    @property
    def picture(self) -> Image.Image:
        """The drawn picture; an edit in its source's size, if the task says so."""
        if self.pixels is None:
            raise ValueError("this result is not a picture")
        picture = to_picture(self.pixels)
        source = self.task.image if isinstance(self.task, Draw) and self.task.restore else None
        return picture if source is None else unpad(picture, (source.height, source.width))


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """Pictures, prompt by prompt, and the seed of each.

    `images` is a list of PIL pictures, a float32 tensor [N, 3, H, W] in [0, 1], or a list of `ImageCodes`.
    """

    images: list[Image.Image] | Tensor | list[ImageCodes]
    seeds: list[int]


class IllumePipeline:
    """A loaded model with its engine.

    The same prompt, seed and settings give the same picture, alone or in any batch.
    """

    def __init__(self, checkpoint: Checkpoint, engine: EngineConfig | None = None) -> None:
        self.checkpoint = checkpoint
        self.tasks = Tasks(checkpoint)
        self.engine = Engine(checkpoint.model, engine)
        self._decoded_together = _DECODED_TOGETHER.get(self.engine.device.type, _DECODED_ON_ACCELERATORS)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "demo",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        engine: EngineConfig | None = None,
        quantize: str | None = None,
    ) -> Self:
        """Load "demo" or the folder of a checkpoint; `dtype` is the language model's.

        `quantize="int8"` keeps the weights of the decoder's layers in 8 bits (`model.quantized`; the extra `int8`). On
        a GPU, weights that read the same input are laid together (`model.fused`).

        Raises:
            CheckpointError: the checkpoint is bad.
            ValueError, RuntimeError: the quantisation is not known, or torchao is missing.
        """
        checkpoint = load_checkpoint(name, dtype, device)
        if quantize is not None:
            quantize_weights(checkpoint.model, quantize)
        elif torch.device(device).type == "cuda":
            lay_together(checkpoint.model.decoder)
        return cls(checkpoint, engine)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes (height, width) the model draws, its default first."""
        return self.tasks.generation.sizes

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Image.Image | Sequence[Image.Image] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> PipelineOutput:
        """Draw pictures of prompts or, with `image`, edit it as the prompts say.

        What is None is the model's default. One seed serves every prompt, several go one to a prompt; without a seed
        one is drawn from `generator` or from torch's global generator. `callback_on_step_end(pipeline, step, timestep,
        {"progress": Progress})` is called after each step of the engine; `timestep` counts unfinished pictures.

        Raises:
            InputError: something given cannot be used.
            RequestError: the model broke on a prompt; what else was asked is not returned either.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise InputError("there is no prompt; give one, or a list of them")
        images = _one_each("image", image, len(prompts), Image.Image)
        if seed is not None and generator is not None:
            raise InputError("give a seed or a generator, not both")
        if (height is None) != (width is None):
            raise InputError("give both height and width, or neither")
        if num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt}")
        if output_type not in ("pil", "pt", "codes"):
            raise InputError(f"output_type {output_type!r} is not known; allowed are 'pil', 'pt', 'codes'")
        if seed is None:
            seed = int(torch.randint(2**53, (), generator=generator))
        tasks = [
            Draw(
                prompt=words,
                image=source,
                size=None if height is None or width is None else (height, width),
                guidance=guidance_scale,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=start,
                samples=range(num_images_per_prompt),
                tag=number,
            )
            for number, (words, source, start) in enumerate(
                zip(prompts, images, _one_each("seed", seed, len(prompts), int), strict=True)
            )
        ]
        total = len(tasks) * num_images_per_prompt

        def on_step(progress: Progress) -> None:
            if callback_on_step_end is not None:
                left = total - progress.finished
                callback_on_step_end(self, progress.step - 1, left, {"progress": progress})

        done = sorted(self._all(tasks, on_step), key=lambda d: (d.task.tag, d.sample))
        return PipelineOutput(_output(done, output_type), [d.seed for d in done])

    def edit(
        self, image: Image.Image | Sequence[Image.Image], instruction: str | Sequence[str], **rest: Any
    ) -> PipelineOutput:
        """Change pictures as instructions say; the rest, and the answer, are those of a call of the pipeline."""
        return self(instruction, image, **rest)

    def chat(
        self,
        prompt: str,
        images: Image.Image | Sequence[Image.Image] = (),
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """Answer a question in words, if wished about pictures; greedily unless `temperature` is above 0."""
        pictures = (images,) if isinstance(images, Image.Image) else tuple(images)
        task = Ask(prompt=prompt, images=pictures, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return self._all([task])[0].text or ""

    def generate_stream(
        self, tasks: Iterable[Draw | Ask], on_step: OnStep | None = None, decode: bool = True
    ) -> Iterator[Done]:
        """Yield samples of many tasks as they finish, in constant memory; failures come as results with an `error`.

        `tasks` is read lazily. Codes of finished pictures are gathered and decoded together; without `decode` they come
        alone. Only errors that are nobody's fault (of `tasks` itself, or out of memory) are raised.
        """
        refused: list[Done] = []
        waiting: list[Done] = []
        for result in self.engine.generate(self._requests(tasks, refused), on_step):
            yield from _drain(refused)
            done = self._done(result)
            if done.codes is None or not decode:
                yield done
                continue
            waiting.append(done)
            if len(waiting) == self._decoded_together:
                yield from self._decoded(_drain(waiting))
        yield from _drain(refused)
        yield from self._decoded(waiting)

    def decode(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes of pictures of one size -> uint8 [N, 3, H, W]; a picture is the same in any company."""
        together = self._decoded_together
        return torch.cat([self._decode(codes[i : i + together]) for i in range(0, len(codes), together)])

    @torch.no_grad()
    def _decode(self, codes: Sequence[ImageCodes]) -> Tensor:
        filled = [*codes, *[codes[-1]] * (self._decoded_together - len(codes))]
        semantic = torch.stack([c.semantic for c in filled]).to(self.engine.device)
        pixel = torch.stack([c.pixel for c in filled]).to(self.engine.device)
        pixels = self.checkpoint.vision_tokenizer.decode_code(semantic, pixel)
        return to_uint8(pixels[: len(codes)]).cpu()

    def _all(self, tasks: Sequence[Draw | Ask], on_step: OnStep | None = None) -> list[Done]:
        done = list(self.generate_stream(tasks, on_step))
        for d in done:
            if d.error is not None:
                raise d.error
        return done

    def _requests(self, tasks: Iterable[Draw | Ask], refused: list[Done]) -> Iterator[Request]:
        for task in tasks:
            try:
                yield from self.tasks.requests(task)
            except InputError as error:
                refused.append(Done(task=task, sample=0, seed=task.seed, error=error))

    def _done(self, result: Result) -> Done:
        wanted: Wanted = result.request.tag
        done = Done(task=wanted.task, sample=wanted.sample, seed=result.seed, error=result.error)
        if result.error is not None:
            return done
        if wanted.grid is None:
            return replace(done, text=self.tasks.words(result.ids))
        return replace(done, codes=self.tasks.codes(result.ids, wanted.grid))

    def _decoded(self, done: Sequence[Done]) -> Iterator[Done]:
        by_size: dict[Size, list[Done]] = {}
        for d in done:
            assert d.codes is not None
            by_size.setdefault((d.codes.height, d.codes.width), []).append(d)
        for group in by_size.values():
            pixels = self.decode([d.codes for d in group if d.codes is not None])
            for d, p in zip(group, pixels, strict=True):
                yield replace(d, pixels=p)


def _drain(items: list[Done]) -> list[Done]:
    taken = items[:]
    items.clear()
    return taken


def _output(done: Sequence[Done], kind: OutputType) -> Any:
    if kind == "pil":
        return [d.picture for d in done]
    if kind == "codes":
        return [d.codes for d in done]
    return torch.stack([d.pixels for d in done if d.pixels is not None]).float() / 255


def _one_each(name: str, value: Any, count: int, kind: type) -> list[Any]:
    """`value` for each prompt: one for all (or None), or a list of as many."""
    if value is None or isinstance(value, kind):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise InputError(f"{name}: {len(values)} given for {count} prompts; give one, or one for each")
    return values
