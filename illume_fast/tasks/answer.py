"""The answer to a conversation, drawn in stages: words, and pictures between them.

Each stage is a request of its own, whose prompt is the one before with its answer. So a picture is guided away from a
fresh prompt without words, as in the official code; words cost no second branch; and no room is held for pictures that
may never come. What was drawn stays in the cache, where the next stage finds it.
"""

from dataclasses import dataclass

from torch import Tensor

from illume_fast.data.chat import Written
from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes, decode_image
from illume_fast.data.sizes import ImageGrid, Size
from illume_fast.engine import Plan, Request, SamplingParams, Segment, Site, sample_seed
from illume_fast.tasks import conversation
from illume_fast.tasks.asked import Converse, name_of
from illume_fast.tasks.checks import NEGATIVE_IN_VAIN, guidance_of
from illume_fast.tasks.sampling import answer_sampling, default_guidance, picture_sampling
from illume_fast.tasks.tools import Tools
from illume_fast.tasks.wanted import Wanted


@dataclass(frozen=True)
class _Drawing:
    """How the pictures of an answer are drawn and guided, by the names that pictures alone have."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    negative_prompt: str | None
    sampling: str | None
    shows_pictures: bool
    guidance_from: int = 0
    guidance_until: int | None = None


class Answer:
    """An answer under way: `parts` are there, and `request` draws the next one; None once it is whole.

    Raises:
        InputError: the conversation or a setting cannot be used.
    """

    def __init__(self, tools: Tools, task: Converse) -> None:
        self.task = task
        self.parts: list[Written | ImageCodes] = []
        self._tools, generation = tools, tools.generation
        self._words_left = generation.max_answer if task.max_new_tokens is None else task.max_new_tokens
        self._pictures_left = 0 if task.answer == "text" else task.max_pictures
        drawing = _Drawing(
            *(task.picture_temperature, task.picture_top_k, task.picture_top_p, task.guidance),
            *(task.negative_prompt, task.sampling, task.shows_pictures),
        )
        self._words = answer_sampling(task, generation)
        guidance = guidance_of(drawing, generation, default_guidance(drawing, generation))
        self._drawing = picture_sampling(drawing, generation, guidance)
        if task.negative_prompt is not None and (task.answer == "text" or self._drawing.guidance == 1):
            raise InputError(NEGATIVE_IN_VAIN)
        self._stage = 0
        self._height: int | None = None  # of a size tag that lacks its width
        self._prompt: tuple[Segment, ...]
        self.request: Request | None = self._begin()

    def take(self, ids: Tensor) -> None:
        """Take in what `request` has drawn; there is another one then, or the answer is whole."""
        assert self.request is not None
        grid = self.request.tag.grid
        drawn = tuple(ids.tolist())
        if grid is not None:
            self.request = self._after_picture(drawn, grid)
        elif self._height is not None:
            self.request = self._picture((self._height, self._pixels(drawn[0])), drawn)
        else:
            self.request = self._after_words(drawn)

    def _begin(self) -> Request:
        task, tools = self.task, self._tools
        if task.size is not None:
            tools.grid(task.size)
        if task.answer == "image":
            size = conversation.size_asked(tools, task)
            self._prompt = conversation.picture_prompt(tools, task, size)
            return self._draw(size)
        self._prompt = conversation.prompt(tools, task)
        return self._write()

    def _after_picture(self, drawn: tuple[int, ...], grid: ImageGrid) -> Request | None:
        self.parts.append(decode_image(drawn, grid, self._tools.vocab))
        self._prompt += (Segment(drawn),)
        self._pictures_left -= 1
        return self._write() if self.task.answer == "interleaved" and self._words_left else None

    def _after_words(self, drawn: tuple[int, ...]) -> Request | None:
        vocab = self._tools.vocab
        begins = drawn[-1] in self._beginnings()
        words = drawn[:-1] if begins or drawn[-1] in vocab.eos else drawn
        if words:
            self.parts.append(Written(self._tools.chat.text.decode(words).strip(), words))
        self._words_left -= len(words)
        if not begins:
            return None
        self._prompt += (Segment(words),)
        sizes = self._beginnings()[drawn[-1]]
        if not vocab.tag_pixels:
            return self._draw(sizes[0])
        if len(sizes) == 1:
            return self._picture(sizes[0], vocab.size_tag(*sizes[0]))
        self._prompt += (Segment(drawn[-1:]),)
        self._height = sizes[0][0]
        widths = sorted(vocab.width_tag(width) for _, width in sizes)
        return self._request(Plan.of([Site(tuple((w, w + 1) for w in widths))]), self._words)

    def _write(self) -> Request:
        """Words, which end where the model ends them or begins a picture."""
        vocab = self._tools.vocab
        begin = sorted(self._beginnings())
        ranges = [(0, vocab.text_size), *((i, i + 1) for i in begin)]
        return self._request(Plan.text(ranges, self._words_left, [*vocab.eos, *begin]), self._words)

    def _picture(self, size: Size, tag: "list[int] | tuple[int, ...]") -> Request:
        self._prompt += (Segment(tuple(tag)),)
        self._height = None
        return self._draw(size)

    def _draw(self, size: Size) -> Request:
        tools = self._tools
        grid = tools.grid(size)
        guided = tools.generation.has_unconditional and self._drawing.guidance != 1
        return self._request(tools.plan(grid), self._drawing, grid, self._free(size) if guided else None)

    def _free(self, size: Size) -> tuple[Segment, ...]:
        """What guidance leads away from."""
        return conversation.without_words(self._tools, self.task, size)

    def _request(
        self,
        plan: Plan,
        sampling: SamplingParams,
        grid: ImageGrid | None = None,
        unconditional: tuple[Segment, ...] | None = None,
    ) -> Request:
        request = Request(
            id=name_of(self.task),
            prompt=self._prompt,
            unconditional=unconditional,
            plan=plan,
            sampling=sampling,
            seed=sample_seed(self.task.seed, self._stage),
            keep=self.task.keep,
            tag=Wanted(self.task, 0, grid, self),
        )
        self._stage += 1
        return request

    def _beginnings(self) -> dict[int, list[Size]]:
        """The ids with which a picture may begin now, and the sizes that each may have.

        A picture begins with its size tag, or with `<start_of_image>` where the model knows no tags.
        """
        if not self._pictures_left:
            return {}
        tools, vocab = self._tools, self._tools.vocab
        allowed = tools.generation.sizes if self.task.size is None else (self.task.size,)
        if not vocab.tag_pixels:
            return {vocab.start_of_image: [allowed[0]]}
        found: dict[int, list[Size]] = {}
        for size in allowed:
            found.setdefault(vocab.height_tag(size[0]), []).append(size)
        return found

    def _pixels(self, width_tag: int) -> int:
        vocab = self._tools.vocab
        return vocab.tag_pixels[width_tag - vocab.first_width]
