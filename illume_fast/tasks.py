"""What ILLUME can be asked, as requests of the engine: prompts with pictures to segments, sizes to plans.

Sequences and prompts are those of ILLUME+ (Huang et al., arXiv 2504.01934); see `data.chat` and `model.image_block`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from illume_fast.data.chat import Chat
from illume_fast.data.errors import InputError
from illume_fast.data.image import ImageProcessor, pad_to
from illume_fast.data.picture import on_white
from illume_fast.data.sequence import ImageCodes, PartialCodes, decode_image, partial_codes
from illume_fast.data.sizes import ImageGrid, Size, image_grid, nearest_size
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.engine import Plan, Request, SamplingParams, SamplingSet, Segment, Site, sample_seed
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.model.generation_config import SamplingDefaults
from illume_fast.model.image_block import block_slots, slot_of
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig

_PICTURES_KEPT = 64
_ID_LENGTH = 60


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """Pictures from a prompt or, with `image`, edits of it. What is None is the model's own default.

    `size` is (height, width) in pixels. `samples` says which samples of `seed` are wanted: sample k is drawn with
    `sample_seed(seed, k)`. An edit has the size nearest to its source's and comes back in the source's own size unless
    `restore` is off. Guidance leads away from `negative_prompt`, or from no prompt at all, at the steps of the
    picture's tokens from `guidance_from` until before `guidance_until` (None: to the end). `tag` comes back untouched.
    """

    prompt: str
    image: Image.Image | None = None
    size: Size | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    guidance_from: int = 0
    guidance_until: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    samples: Sequence[int] = (0,)
    restore: bool = True
    id: str = ""
    tag: Any = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Ask:
    """A question about any number of pictures, answered in words; greedily unless `temperature` says otherwise."""

    prompt: str
    images: Sequence[Image.Image] = ()
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    id: str = ""
    tag: Any = None


def name_of(task: Draw | Ask) -> str:
    """What messages call a task: its id, or how its prompt begins."""
    return task.id or task.prompt.strip()[:_ID_LENGTH]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What an engine request is for: `Draw` or `Ask`, which sample, and the grid when it is a picture."""

    task: Draw | Ask
    sample: int = 0
    grid: ImageGrid | None = None


class Tasks:
    """Turns tasks into engine requests for one checkpoint, and drawn ids into codes and words."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.generation = checkpoint.config.generation
        self.vocab = checkpoint.config.model.vocab
        text = TextTokenizer.from_file(checkpoint.tokenizer, self.vocab.text_size)
        self.chat = Chat(text, self.vocab)
        tower = checkpoint.config.model.vision_tower
        self._processor = ImageProcessor(tower.factor, tower.min_pixels, tower.max_pixels)
        self._read: OrderedDict[str, Segment] = OrderedDict()
        # requests of one size share one plan
        self.plan = lru_cache(maxsize=64)(partial(picture_plan, self.vocab))

    def requests(self, task: Draw | Ask) -> list[Request]:
        """One request a sample. InputError, in one line, for what this model cannot do."""
        if not 0 <= task.seed < 2**63:
            raise InputError(f"seed must lie in [0, 2**63), got {task.seed}")
        if isinstance(task, Ask):
            return [self._ask(task)]
        return self._edit(task) if task.image is not None else self._draw(task)

    def grid(self, size: Size | None) -> ImageGrid:
        """The grid of a size the model draws (None: its default). InputError, listing those, for another."""
        allowed = self.generation.sizes
        return image_grid(size or self.generation.size, self.checkpoint.config.vision_tokenizer, allowed)

    def codes(self, ids: Tensor, grid: ImageGrid) -> ImageCodes:
        """The drawn ids of a picture -> its codes."""
        return decode_image(ids, grid, self.vocab)

    def codes_so_far(self, ids: Tensor, grid: ImageGrid) -> PartialCodes:
        """The first ids of a picture -> the codes among them. ValueError for an id that is no code."""
        return partial_codes(ids, grid, self.vocab)

    def words(self, ids: Tensor) -> str:
        """The drawn ids of an answer -> its text."""
        return self.chat.text.decode([i for i in ids.tolist() if i not in self.vocab.eos]).strip()

    def words_so_far(self, ids: Tensor) -> str:
        """The first ids of an answer -> its text, without the bytes of a character that is not whole yet.

        It is the beginning of what `words` makes of any more ids.
        """
        return self.words(ids[ids >= 0]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()

    def _draw(self, task: Draw) -> list[Request]:
        _require_words(task.prompt)
        grid = self.grid(task.size)
        size = grid.height, grid.width
        guidance = self._guidance(task, self.generation.guidance)
        away = task.negative_prompt
        free = self.chat.generate_anything(size) if away is None else self.chat.generate(away, size)
        return self._samples(task, grid, guidance, [], self.chat.generate(task.prompt, size), free)

    def _edit(self, task: Draw) -> list[Request]:
        _require_words(task.prompt)
        assert task.image is not None
        source = task.image.height, task.image.width
        grid = self.grid(task.size or nearest_size(source, self.generation.sizes))
        size = grid.height, grid.width
        guidance = self._guidance(task, self.generation.edit_guidance)
        picture = self._segment(self._processor(pad_to(_rgb(task.image), size)))
        away = task.negative_prompt
        free = self.chat.edit_nothing(size) if away is None else self.chat.edit(away, size)
        return self._samples(task, grid, guidance, [picture], self.chat.edit(task.prompt, size), free)

    def _samples(
        self, task: Draw, grid: ImageGrid, guidance: float, pictures: list[Segment], prompt: list[int], free: list[int]
    ) -> list[Request]:
        defaults = self.generation.semantic, self.generation.pixel
        try:
            sets = tuple(_sampling_set(task, d) for d in defaults)
            sampling = SamplingParams(sets, guidance, task.guidance_from, task.guidance_until)
        except ValueError as error:
            raise InputError(str(error)) from None
        request = Request(
            id=name_of(task),
            prompt=segments(prompt, pictures),
            unconditional=segments(free, pictures) if self.generation.has_unconditional else None,
            plan=self.plan(grid),
            sampling=sampling,
        )
        _check_stretch(task, request)
        return [
            replace(request, seed=sample_seed(task.seed, sample), tag=Wanted(task, sample, grid))
            for sample in task.samples
        ]

    def _ask(self, task: Ask) -> Request:
        _require_words(task.prompt)
        most = self.generation.max_answer if task.max_new_tokens is None else task.max_new_tokens
        if most < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {most}")
        pictures = [self._segment(self._understood(_rgb(image))) for image in task.images]
        try:
            sampling = SamplingParams((_sampling_set(task, self.generation.text),))
        except ValueError as error:
            raise InputError(str(error)) from None
        return Request(
            id=name_of(task),
            prompt=segments(self.chat.ask(task.prompt, len(pictures)), pictures),
            plan=Plan.text([(0, self.vocab.text_size)], most, self.vocab.eos),
            sampling=sampling,
            seed=task.seed,
            tag=Wanted(task),
        )

    def _guidance(self, task: Draw, default: float) -> float:
        if task.negative_prompt is not None:
            _require_words(task.negative_prompt, "negative prompt")
        if self.generation.has_unconditional:
            return default if task.guidance is None else task.guidance
        if task.guidance not in (None, 1.0):
            raise InputError(
                f"guidance {task.guidance:g}: this model was trained without an unconditional prompt; allowed is 1"
            )
        if task.negative_prompt is not None or (task.guidance_from, task.guidance_until) != (0, None):
            raise InputError(
                "this model was trained without an unconditional prompt, which guidance needs; leave out the negative"
                " prompt, guidance_from and guidance_until"
            )
        return 1.0

    def _understood(self, image: Image.Image) -> Tensor:
        """A picture to be talked about: its own size within the tower's bounds, or the one size the model knows."""
        if len(self.generation.sizes) == 1:
            image = pad_to(image, self.generation.size)
        return self._processor(image)

    @torch.no_grad()
    def _segment(self, pixels: Tensor) -> Segment:
        """Features of a picture [1, 3, H, W], kept for the next request with the same one.

        Pictures are read one at a time, so that their features do not depend on the company they come in.
        """
        key = hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.contiguous().numpy().tobytes()).hexdigest()
        segment = self._read.pop(key, None)
        if segment is None:
            head = self.checkpoint.model.head_weight
            segment = Segment(features=self.checkpoint.model.image_embeds([pixels.to(head)])[0], key=key)
        self._read[key] = segment
        if len(self._read) > _PICTURES_KEPT:
            self._read.popitem(last=False)
        return segment


def picture_plan(vocab: VocabConfig, grid: ImageGrid) -> Plan:
    """The plan of a picture: structure ids are forced, codes of a level draw with the set of its number."""
    sites = {slot_of(level): Site((ids,), level) for level, ids in enumerate(vocab.levels)}
    return Plan.of(sites.get(slot, slot) for slot in block_slots(vocab, grid.levels).tolist())


def segments(ids: Sequence[int], pictures: Sequence[Segment]) -> tuple[Segment, ...]:
    """Ids with placeholders -> segments, each placeholder replaced by the next picture."""
    found: list[Segment] = []
    start = 0
    holes = [i for i, token in enumerate(ids) if token == IMAGE_PLACEHOLDER]
    for hole, picture in zip(holes, pictures, strict=True):
        found += [Segment(tuple(ids[start:hole])), picture]
        start = hole + 1
    return (*found, Segment(tuple(ids[start:])))


def _check_stretch(task: Draw, request: Request) -> None:
    """InputError for guidance that begins behind the picture, and for a negative prompt without guidance."""
    steps = len(request.plan)
    if task.guidance_from >= steps:
        raise InputError(f"guidance_from {task.guidance_from}: this picture has the steps 0 to {steps - 1}")
    if task.negative_prompt is not None and not request.guided:
        raise InputError(
            "a negative prompt does nothing without guidance; give guidance other than 1 at some steps, or leave it out"
        )


def _sampling_set(task: Draw | Ask, defaults: SamplingDefaults) -> SamplingSet:
    return SamplingSet(
        temperature=defaults.temperature if task.temperature is None else task.temperature,
        top_k=defaults.top_k if task.top_k is None else task.top_k,
        top_p=defaults.top_p if task.top_p is None else task.top_p,
    )


def _rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB on white. InputError when its file turns out to be damaged."""
    try:
        return on_white(image)
    # Pillow reads files late, and its decoders raise any of these
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as error:
        raise InputError(
            f"the picture cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None


def _require_words(prompt: str, name: str = "prompt") -> None:
    if not prompt.strip():
        raise InputError(f"the {name} is empty")
