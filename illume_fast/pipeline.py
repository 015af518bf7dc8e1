"""`IllumePipeline`: prompts, pictures and questions in; pictures and words out. Called like a diffusers pipeline."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor

from illume_fast.data.errors import InputError, shorten
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.data.turns import Turn, turns_of
from illume_fast.decoders import open_decoder
from illume_fast.decoding import Decoder, DecodingQueue, PictureDecoder, decode_pictures
from illume_fast.diffusion import DiffusionPictures, DiffusionSettings
from illume_fast.drafts import Drafts, Growing
from illume_fast.engine import Engine, EngineConfig, Progress
from illume_fast.engine.request import OnStep
from illume_fast.model.checkpoint import Checkpoint, load_checkpoint
from illume_fast.model.quantized import prepare
from illume_fast.outcome import Done, Draft, Drawn, OnDraft, PipelineOutput
from illume_fast.records import with_size
from illume_fast.seeds import Generators, Seeds, drawn_seed, seed_of_each
from illume_fast.stream import Stream
from illume_fast.tasks import Ask, Converse, Draw, Task, Tasks
from illume_fast.tasks.arguments import one_each, plain_seed

__all__ = ["Ask", "Converse", "Done", "Draft", "Draw", "Drawn", "IllumePipeline", "PipelineOutput", "Turn"]

OutputType = Literal["pil", "pt", "codes"]
StepCallback = Callable[["IllumePipeline", int, int, dict[str, Any]], Any]


class IllumePipeline:
    """A loaded model with its engine.

    The same prompt, seed and settings give the same picture, alone or in any batch.
    """

    def __init__(
        self, checkpoint: Checkpoint, engine: EngineConfig | None = None, decoder: Decoder | None = None
    ) -> None:
        """Without a `decoder` it is the one that the checkpoint says."""
        self.checkpoint = checkpoint
        self.tasks = Tasks(checkpoint)
        self.engine = Engine(checkpoint.model, engine)
        self.pictures = open_decoder(checkpoint, device=self.engine.device) if decoder is None else decoder
        # shows pictures while they are drawn, whatever makes the finished ones
        shows = self.pictures if isinstance(self.pictures, PictureDecoder) else None
        self.decoder = shows or PictureDecoder(checkpoint.vision_tokenizer, self.engine.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "demo",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        engine: EngineConfig | None = None,
        quantize: str | None = None,
        vision_tokenizer: str | Path | None = None,
        decoder: str | Path | None = None,
        diffusion: DiffusionSettings | None = None,
    ) -> Self:
        """Load "demo" or the folder of a checkpoint; `dtype` is the language model's. CheckpointError if it is bad.

        A published language model draws with the `vision_tokenizer` of that folder; without one it reads and answers.
        `quantize="int8"` keeps the weights of the decoder's layers in 8 bits, by torchao (see `model.quantized`).
        `decoder` makes the pictures: "pixel", "diffusion", the folder of a diffusion decoder, or None for what the
        checkpoint says (see `decoders.open_decoder`); `diffusion` says how one of the two latter does.
        """
        checkpoint = load_checkpoint(name, dtype, device, vision_tokenizer=vision_tokenizer)
        prepare(checkpoint.model, quantize)
        pictures = open_decoder(checkpoint, decoder, diffusion, dtype, device)
        if diffusion is not None and isinstance(pictures, PictureDecoder):
            raise InputError("diffusion settings were given, but the pixel decoder makes the pictures; give a decoder")
        return cls(checkpoint, engine, pictures)

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
        negative_prompt: str | Sequence[str] | None = None,
        guidance_from: int = 0,
        guidance_until: int | None = None,
        sampling: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_images_per_prompt: int = 1,
        seed: Seeds = None,
        generator: Generators = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
        on_partial: OnDraft | None = None,
        partial_every: int | None = None,
    ) -> PipelineOutput:
        """Draw pictures of prompts or, with `image`, edit it as the prompts say.

        What is None is the model's default. One seed serves every prompt, several go one to a prompt; without a seed
        one is drawn from `generator` or from torch's global generator. A list of generators has one for each picture.
        `callback_on_step_end(pipeline, step, timestep, {"progress": Progress})` is called after each step of the
        engine; `timestep` counts unfinished pictures.
        Guidance leads away from `negative_prompt` (one for all prompts, or one each), or from no prompt at all, at the
        steps of a picture's tokens from `guidance_from` until before `guidance_until` (None: to the end).
        `sampling` names a preset of the official scripts, such as "official" (docs/sampling.md).
        `on_partial(Draft)` shows pictures while they are drawn, as in `generate_stream`.

        Raises:
            InputError: something given cannot be used.
            RequestError: the model broke on a prompt; what else was asked is not returned either.
        """
        prompts = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Iterable) else list(prompt)
        if not prompts:
            raise InputError("there is no prompt; give one, or a list of them")
        images = one_each("image", image, len(prompts), Image.Image)
        negatives = one_each("negative_prompt", negative_prompt, len(prompts), str)
        if seed is not None and generator is not None:
            raise InputError("give a seed or a generator, not both")
        if (height is None) != (width is None):
            raise InputError("give both height and width, or neither")
        if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt must be at least 1, got {shorten(num_images_per_prompt)}")
        if output_type not in ("pil", "pt", "codes"):
            raise InputError(f"output_type {output_type!r} is not known; allowed are 'pil', 'pt', 'codes'")
        runs = _runs(seed, generator, len(prompts), num_images_per_prompt)
        tasks = [
            Draw(
                prompt=words,
                image=source,
                size=None if height is None or width is None else (height, width),
                guidance=guidance_scale,
                negative_prompt=away,
                guidance_from=guidance_from,
                guidance_until=guidance_until,
                sampling=sampling,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=start,
                samples=samples,
                tag=(number, place),
            )
            for number, (words, source, away, mine) in enumerate(zip(prompts, images, negatives, runs, strict=True))
            for place, (start, samples) in enumerate(mine)
        ]
        total = len(prompts) * num_images_per_prompt

        def on_step(progress: Progress) -> None:
            if callback_on_step_end is not None:
                left = total - progress.finished
                callback_on_step_end(self, progress.step - 1, left, {"progress": progress})

        done = self._all(tasks, on_step, on_partial, partial_every, decode=output_type != "codes")
        done.sort(key=lambda d: (d.task.tag, d.sample))
        records = [with_size(d.record, d.codes) for d in done if d.codes is not None]
        return PipelineOutput(_output(done, output_type), [d.seed for d in done], records)

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
        sampling: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer a question in words, if wished about pictures; greedily unless `temperature` is above 0.

        `sampling` names a preset of the official scripts (docs/sampling.md), which is not greedy either.

        `on_text` is given the answer so far whenever it has grown, in whole characters; what comes last is the answer.
        """
        pictures = (images,) if isinstance(images, Image.Image) else tuple(images)
        task = Ask(
            prompt=prompt,
            images=pictures,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            temperature=temperature,
            seed=seed,
        )
        if on_text is None:
            return self._all([task])[0].text or ""
        growing = Growing(on_text)
        answer = self._all([task], on_partial=lambda draft: growing.show(draft.text))[0].text
        return growing.show(answer)

    def converse(
        self,
        messages: Iterable[Turn | Mapping[str, Any]],
        images: Iterable[Image.Image] = (),
        *,
        on_partial: OnDraft | None = None,
        partial_every: int | None = None,
        **settings: Any,
    ) -> Done:
        """Answer a conversation: words, pictures, or both; `settings` are those of `Converse`.

        Messages are `Turn`s or `{"role", "content"}` (see `data.turns.turns_of`). The answer's `parts` are its words
        and pictures in order, and its `turn` goes into the next call's messages.

        Raises:
            InputError: something given cannot be used.
            RequestError: the model broke on it, or the conversation is longer than the model takes.
        """
        task = Converse(messages=turns_of(messages, images), **settings)
        return self._all([task], on_partial=on_partial, partial_every=partial_every)[0]

    def generate_stream(
        self,
        tasks: Iterable[Task],
        on_step: OnStep | None = None,
        decode: bool = True,
        on_partial: OnDraft | None = None,
        partial_every: int | None = None,
    ) -> Iterator[Done]:
        """Yield samples of many tasks as they finish, in constant memory; failures come as results with an `error`.

        Pictures, edits, answers and turns of conversations share one batch, and each is what it is alone.
        `tasks` is read lazily. Finished pictures are decoded beside the drawing of others; without `decode` their codes
        come alone. `on_partial(Draft)` is given every sample as far as it is made, after every `partial_every` draws of
        it (None: about ten times a picture, and after every token of an answer); the finished samples are the same
        without it. Only errors that are nobody's fault (of `tasks` itself, of a callback, or out of memory) are raised.
        """
        queue = DecodingQueue[Any](self.pictures) if decode else None
        drafts = None if on_partial is None else Drafts(self.tasks, self.decoder, on_partial, partial_every)
        made_with = self.pictures.record() if isinstance(self.pictures, DiffusionPictures) else {}
        yield from Stream(self.tasks, self.engine, queue, drafts, made_with).results(tasks, on_step)

    def decode(self, codes: Sequence[ImageCodes], seeds: Sequence[int] | None = None) -> Tensor:
        """Codes of pictures of one size -> uint8 [N, 3, H, W]; a picture is the same in any company.

        A diffusion decoder draws a picture's noise from its seed (None: 0 for each); pictures of a prompt have their
        `Done.seed`.
        """
        return decode_pictures(self.pictures, codes, [0] * len(codes) if seeds is None else seeds)

    def _all(
        self,
        tasks: Sequence[Task],
        on_step: OnStep | None = None,
        on_partial: OnDraft | None = None,
        partial_every: int | None = None,
        decode: bool = True,
    ) -> list[Done]:
        done = list(self.generate_stream(tasks, on_step, decode, on_partial, partial_every))
        for d in done:
            if d.error is not None:
                raise d.error
        return done


def _output(done: Sequence[Done], kind: OutputType) -> Any:
    if kind == "pil":
        return [d.picture for d in done]
    if kind == "codes":
        return [d.codes for d in done]
    return torch.stack([d.pixels for d in done if d.pixels is not None]).float() / 255


def _runs(seed: Seeds, generator: Generators, prompts: int, count: int) -> list[list[tuple[int, Sequence[int]]]]:
    """For each prompt the seeds to draw with, and which samples of each."""
    if generator is None or isinstance(generator, torch.Generator):
        start = drawn_seed(generator) if seed is None else seed
        return [[(plain_seed(one), range(count))] for one in one_each("seed", start, prompts, Integral)]
    own = seed_of_each(list(generator), prompts, count)
    return [[(one, (0,)) for one in own[i * count :][:count]] for i in range(prompts)]
