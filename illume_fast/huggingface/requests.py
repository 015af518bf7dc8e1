"""What `generate` is asked for, as requests of the engine: words, or a picture of some size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from illume_fast.data.sizes import Size, format_size
from illume_fast.engine import Plan, Request, SamplingParams, SamplingSet, Segment
from illume_fast.model.generation_config import SamplingDefaults
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig
from illume_fast.tasks import Tasks, segments


@dataclass(frozen=True, eq=False)
class Prompt:
    """A row's ids, with placeholders, and the pictures that stand for them."""

    ids: list[int]
    pictures: tuple[Segment, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        return segments(self.ids, self.pictures)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; what is None is the model's default."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def set(self, defaults: SamplingDefaults, greedy: bool, **own: Any) -> SamplingSet:
        """The engine's settings; `own` are those of one kind of token, and go before the others.

        ValueError where something is out of range, or greedy drawing is given settings that it has no use for.
        """
        given = {name: getattr(self, name) if own.get(name) is None else own[name] for name in SETTINGS}
        if self.do_sample is False and given["temperature"]:
            raise ValueError(f"do_sample=False draws greedily; temperature {given['temperature']} would do nothing")
        if self.do_sample is True and given["temperature"] == 0:
            raise ValueError("do_sample=True at temperature 0 draws greedily; leave one of them out")
        if self.do_sample is False or (greedy and not self.do_sample and given["temperature"] is None):
            given["temperature"] = 0.0
        return SamplingSet(**{n: getattr(defaults, n) if value is None else value for n, value in given.items()})


SETTINGS = ("temperature", "top_k", "top_p")


class Writing:
    """Answers in words."""

    def __init__(self, tasks: Tasks, sampling: Sampling, max_new_tokens: int | None) -> None:
        most = tasks.generation.max_answer if max_new_tokens is None else max_new_tokens
        if most < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {most}")
        self._plan = Plan.text([(0, tasks.vocab.text_size)], most, tasks.vocab.eos)
        self._sampling = SamplingParams((sampling.set(tasks.generation.text, greedy=True),))

    def request(self, prompt: Prompt, row: int) -> tuple[list[int], Request]:
        """What is written before the answer, and the request; its seed and tag are the caller's."""
        request = Request(id=f"row {row}", prompt=prompt.segments, plan=self._plan, sampling=self._sampling)
        return [], request


class Painting:
    """How the pictures of answers are drawn. `of_levels` holds settings of each level's codes, `away` the negative
    prompts, one or one a row."""

    def __init__(
        self,
        tasks: Tasks,
        sampling: Sampling,
        of_levels: Sequence[Mapping[str, Any]],
        guidance: float | None,
        away: Sequence[Prompt] | None,
    ) -> None:
        self.tasks, self._guidance, self._away = tasks, guidance, away
        defaults = tasks.generation.semantic, tasks.generation.pixel
        levels = len(tasks.vocab.levels)
        if any(value is not None for own in of_levels[levels:] for value in own.values()):
            raise ValueError(f"image_pixel_...: this model's pictures have {levels} level of codes alone")
        kinds = zip(defaults[:levels], of_levels, strict=False)
        self._sets = tuple(sampling.set(default, greedy=False, **own) for default, own in kinds)

    def sampling(self, prompt: Prompt) -> SamplingParams:
        """Settings for the pictures of a row's answer."""
        generation = self.tasks.generation
        scale = generation.edit_guidance if prompt.pictures else generation.guidance
        scale = self._guidance if self._guidance is not None else scale if generation.has_unconditional else 1.0
        if scale != 1.0 and not generation.has_unconditional:
            raise ValueError(f"guidance_scale {scale:g}: this model was trained without an empty prompt; allowed is 1")
        if scale == 1.0 and self._away is not None:
            raise ValueError(
                "negative_image_prompt_ids do nothing without guidance; give a guidance_scale other than 1"
            )
        return SamplingParams(self._sets, scale)

    def free(self, prompt: Prompt, size: Size, row: int) -> tuple[Segment, ...]:
        """What guidance leads away from, with its size tag."""
        free, vocab = self._without_words(prompt, size, row), self.tasks.vocab
        said = size_at_end(free.ids, vocab)
        if said not in (None, size):
            raise ValueError(f"negative_image_prompt_ids: row {row} ends with another size than {format_size(size)}")
        return (free if said else replace(free, ids=[*free.ids, *vocab.size_tag(*size)])).segments

    def _without_words(self, prompt: Prompt, size: Size, row: int) -> Prompt:
        """The ids that were given, or the model's own empty prompt."""
        if self._away is not None:
            given = self._away[row if len(self._away) > 1 else 0]
            holes = given.ids.count(IMAGE_PLACEHOLDER)
            if holes not in (0, len(prompt.pictures)):
                raise ValueError(
                    f"negative_image_prompt_ids: {holes} image placeholders, but row {row} has {len(prompt.pictures)}"
                    " pictures; allowed are as many, or none"
                )
            return Prompt(given.ids, prompt.pictures if holes else ())
        if len(prompt.pictures) > 1:
            raise ValueError(
                f"row {row} has {len(prompt.pictures)} pictures, for which there is no empty prompt; give"
                " negative_image_prompt_ids, or guidance_scale=1"
            )
        chat = self.tasks.chat
        return (
            Prompt(chat.edit_nothing(size), prompt.pictures)
            if prompt.pictures
            else Prompt(chat.generate_anything(size))
        )


class Drawing:
    """Answers that are one picture each, of `size`, or of the size that the prompt ends with."""

    def __init__(self, painting: Painting, size: Size | None) -> None:
        self._painting, self._tasks, self._size = painting, painting.tasks, size

    def request(self, prompt: Prompt, row: int) -> tuple[list[int], Request]:
        """The size tag, unless the prompt ends with it, and the request; its seed and tag are the caller's."""
        size, tag = self._sized(prompt.ids)
        sampling = self._painting.sampling(prompt)
        request = Request(
            id=f"row {row}",
            prompt=replace(prompt, ids=[*prompt.ids, *tag]).segments,
            unconditional=None if sampling.guidance == 1.0 else self._painting.free(prompt, size, row),
            plan=self._tasks.plan(self._tasks.grid(size)),
            sampling=sampling,
        )
        return tag, request

    def _sized(self, ids: list[int]) -> tuple[Size, list[int]]:
        """The size to draw, and its tag where the prompt does not end with one."""
        said = size_at_end(ids, self._tasks.vocab)
        if said is not None and self._size is not None and tuple(self._size) != said:
            raise ValueError(
                f"target_image_resolution {format_size(self._size)} differs from the prompt's tag {format_size(said)}"
            )
        size = said or self._tasks.grid(self._size)
        if not isinstance(size, tuple):
            size = size.height, size.width
        return size, [] if said else self._tasks.vocab.size_tag(*size)


def size_at_end(ids: Sequence[int], vocab: VocabConfig) -> Size | None:
    """(height, width) where ids end with a size tag, else None."""
    if len(ids) < 2:
        return None
    tags = vocab.tag_pixels
    height, width = ids[-2] - vocab.first_height, ids[-1] - vocab.first_width
    return (tags[height], tags[width]) if 0 <= height < len(tags) and 0 <= width < len(tags) else None
