"""`generate` of a Janus with its image mode on our engine, and the way back."""

import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration
from transformers.generation.logits_process import LogitsProcessorList

from illume_fast.engine import Engine, EngineConfig, Plan, Request, SamplingParams, Segment, Site
from illume_fast.integrations.janus.options import ORIGINALS, Call, OriginalNeededError, picture_seeds, read_call
from illume_fast.integrations.janus.pictures import JanusPictures, check_janus
from illume_fast.integrations.report import Report


def accelerate(model: JanusForConditionalGeneration, *, max_batch: int = 64, invariant: bool = True) -> Report:
    """Make `model.generate(..., generation_mode="image")` run on our engine; other modes stay as they are.

    The engine reads the model's own parameters, none is copied: what is trained or loaded into the model afterwards
    counts from the next call on, as does `model.to(...)`. Greedy tokens are those of the model's own method (float32;
    but for ties within rounding), sampled ones come from the same distribution. The only attribute set is `generate`.

    `generate` then also takes `seed` (an int, or one for each picture) or `generator` (`torch.Generator`); without
    either, seeds come from torch's own generator, so that `torch.manual_seed` repeats a call. A picture depends on its
    prompt, settings and seed, not on the batch. With guidance_scale 1, at which the model's own method fails, pictures
    are drawn without guidance. The engine computes in the parameters' dtype, whatever autocast says. Options we cannot
    do run the model's own method, with a `UserWarning` that names them (`Report.originals` lists them); with `seed` or
    `generator` they are an error.

    Args:
        max_batch: pictures drawn together; more than that wait for a free place. The key-value cache is kept between
            calls.
        invariant: as in `EngineConfig`.

    Raises:
        TypeError: `model` is no `JanusForConditionalGeneration` itself.
        UnsupportedModelError: something in it cannot run on our engine: training mode, adapters, quantised layers,
            hooks, scaled rotary positions, other activations. The same is looked at again at every call.
        RuntimeError: it is accelerated already.
    """
    check_janus(model)
    if "generate" in vars(model):
        raise RuntimeError("janus: model.generate was replaced already; call revert(model) first")
    generate = ImageGenerate(model, max_batch, invariant)
    vars(model)["generate"] = generate
    return generate.report()


def revert(model: JanusForConditionalGeneration) -> None:
    """Give `model` its own `generate` back; nothing is left on it. Does nothing where nothing was replaced.

    Raises:
        RuntimeError: something else has replaced `generate` since.
    """
    found = vars(model).get("generate")
    if found is None:
        return
    if not isinstance(found, ImageGenerate):
        raise RuntimeError(f"janus: model.generate is {found!r} by now, not what accelerate put there; undo that first")
    del vars(model)["generate"]


class ImageGenerate:
    """Stands in for a model's `generate`."""

    def __init__(self, model: JanusForConditionalGeneration, max_batch: int, invariant: bool) -> None:
        self._model = model
        self._original: Callable[..., Any] = functools.partial(type(model).generate, model)
        functools.update_wrapper(self, model.generate)
        self._sizes = EngineConfig(max_batch=max_batch, invariant=invariant)
        with _plain_tensors():
            self._pictures = JanusPictures(model)
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImageGenerate":
        raise TypeError("janus: an accelerated model cannot be copied or pickled; call revert(model) first")

    def __reduce__(self) -> Any:
        return self.__deepcopy__({})

    def __call__(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Any:
        """As `JanusForConditionalGeneration.generate`, with `seed` and `generator` (see `accelerate`).

        In image mode: int64 [B * num_return_sequences, image tokens], the pictures of a prompt side by side.
        """
        seeded = seed is not None or generator is not None
        if options.get("generation_mode", "text") == "text":
            if seeded:
                raise ValueError('janus: seed and generator are for generation_mode="image" alone')
            return self._original(inputs, attention_mask, logits_processor, **options)
        try:
            call = read_call(self._model, inputs, attention_mask, logits_processor, options)
        except OriginalNeededError as needed:
            if seeded:
                raise ValueError(f"janus: seed and generator cannot be combined with {needed}") from needed
            warnings.warn(f"janus: transformers' own method runs, because of {needed}", UserWarning, stacklevel=2)
            return self._original(inputs, attention_mask, logits_processor, **options)
        seeds = picture_seeds(len(call.ids) * call.samples, seed, generator, call.sampling)
        with self._lock, _plain_tensors():
            return self._draw(call, seeds)

    def report(self) -> Report:
        """What was replaced."""
        pictures, config = self._pictures, self._pictures.decoder.config
        head, table = pictures.head.weight, pictures.table
        return Report(
            model=type(self._model).__name__,
            replaced=(
                ('generate(generation_mode="image")', f"the engine, up to {self._sizes.max_batch} pictures at once"),
                (f"model.language_model, {config.num_hidden_layers} layers", "our decoder over the same parameters"),
                ("model.generation_head", f"a head of {len(head)} codes, guidance mixed before its last product"),
                ("model.generation_embeddings, generation_aligner", f"their table, {tuple(table.shape)}"),
            ),
            kept=(
                'generate(generation_mode="text")',
                "model.vision_model, model.aligner, model.vqmodel, lm_head",
                "forward, decode_image_tokens and everything else of the class",
            ),
            originals=ORIGINALS,
            dtype=head.dtype,
            device=head.device,
            shared_bytes=sum(p.numel() * p.element_size() for p in pictures.parameters),
            cached_bytes=table.numel() * table.element_size(),
            undo=functools.partial(revert, self._model),
        )

    def _draw(self, call: Call, seeds: Sequence[int]) -> Tensor:
        check_janus(self._model)
        self._follow_weights()
        steps = self._pictures.image_tokens
        engine = self._engine_for(len(seeds), call.ids.shape[1] + steps)
        answers = torch.empty(len(seeds), steps, dtype=call.ids.dtype, device=call.ids.device)
        requests = self._requests(call, seeds, engine.config.page_size)
        with closing(engine.generate(requests)) as results:  # type: ignore[type-var]
            for result in results:
                if result.error is not None:
                    raise result.error
                answers[result.request.tag] = result.ids.to(answers)
        return answers

    def _follow_weights(self) -> None:
        if self._pictures.is_current():
            self._pictures.refresh()
        else:
            self._pictures, self._engine = JanusPictures(self._model), None

    def _engine_for(self, count: int, tokens: int) -> Engine:
        """An engine with room for `count` guided pictures of `tokens`, prompt included, or for as many as allowed.

        It only grows, so that calls of different sizes in turn do not make it anew each time.
        """
        rows = min(count, self._sizes.max_batch)
        page = self._sizes.page_size
        # each stream and the prompt it was copied from, both in whole pages
        room = 2 * rows * (tokens + (tokens - self._pictures.image_tokens) + 2 * page)
        if self._engine is not None:
            had = self._engine.config
            if had.max_batch >= rows and (had.cache_tokens or 0) >= room:
                return self._engine
            rows, room = max(rows, had.max_batch), max(room, had.cache_tokens or 0)
            self._engine = None  # its cache goes before the larger one is made
        config = EngineConfig(max_batch=rows, cache_tokens=room, page_size=page, invariant=self._sizes.invariant)
        self._engine = Engine(self._pictures, config)
        return self._engine

    def _requests(self, call: Call, seeds: Sequence[int], page: int) -> Iterator[Request]:
        site = Site(((0, len(self._pictures.head.weight)),))
        plan = Plan.of([site] * self._pictures.image_tokens)
        sampling = SamplingParams((call.sampling,), call.guidance)
        embed = self._model.get_input_embeddings()
        device = self._pictures.table.device
        for row, kept in enumerate(call.mask):
            prompts = [
                _segments(ids, embed(ids), page)
                for ids in (branch[row][kept].to(device) for branch in (call.ids, call.unconditional))
            ]
            for sample in range(call.samples):
                index = row * call.samples + sample
                yield Request(
                    id=f"picture {sample} of prompt {row}",
                    prompt=prompts[0],
                    unconditional=prompts[1] if call.guidance > 1 else None,
                    plan=plan,
                    sampling=sampling,
                    seed=seeds[index],
                    tag=index,
                )


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """No gradients, and neither the caller's inference mode nor autocast: what is kept serves calls under others."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        with torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext():
            yield


def _segments(ids: Tensor, embeddings: Tensor, page: int) -> tuple[Segment, ...]:
    """A prompt in parts as long as a page of the cache, named by their ids: prompts that begin alike share pages.

    Where in the sequence padding ended makes no difference: rotary positions are relative, and nothing sees padding.
    """
    words = ids.tolist()
    return tuple(
        Segment(features=embeddings[start : start + page], key=f"text {words[start : start + page]}")
        for start in range(0, len(words), page)
    )
