"""Questions, and pictures to be drawn, through one stream of the pipeline, which batches them."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from illume_fast.data.chat import IMAGE_MARK
from illume_fast.data.errors import InputError
from illume_fast.data.turns import Turn
from illume_fast.integrations.lmms_eval.wording import GREEDY, Wording
from illume_fast.pipeline import IllumePipeline
from illume_fast.tasks import Ask, Converse, Draw, Task

OnFailure = Callable[[Exception], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """What is asked about some pictures; `id` names it in messages, `seed` starts its chance.

    Where marks `<image>` in the words stand for the pictures, these are shown there; otherwise before the words.
    Pictures are scaled down to `max_pixels` (None: the model's bound).
    """

    id: str
    words: str
    pictures: Sequence[Image.Image] = ()
    wording: Wording = GREEDY
    seed: int = 0
    max_pixels: int | None = None

    def task(self, pipeline: IllumePipeline) -> Ask | Converse:
        """The question as a task of the pipeline; its longest answer ends where the model's context does.

        Raises:
            InputError: there are more or fewer marks than pictures, or the question cannot be asked.
        """
        task = self._task()
        asked = task.max_new_tokens
        most = pipeline.tasks.generation.max_answer if asked is None else asked
        return replace(task, max_new_tokens=max(1, min(most, room_after(pipeline, task))))

    def _task(self) -> Ask | Converse:
        how: dict[str, Any] = {
            "max_new_tokens": self.wording.max_new_tokens,
            "max_pixels": self.max_pixels,
            "temperature": self.wording.temperature,
            "top_k": self.wording.top_k,
            "top_p": self.wording.top_p,
            "seed": self.seed,
            "id": self.id,
        }
        marks = self.words.count(IMAGE_MARK) if self.pictures else 0
        if marks not in (0, len(self.pictures)):
            raise InputError(f"{self.id}: {marks} marks {IMAGE_MARK} for {len(self.pictures)} pictures")
        words = without_leading_marks(self.words) if marks else self.words
        if not marks or IMAGE_MARK not in words:
            return Ask(prompt=words, images=self.pictures, **how)
        texts, pictures = self.words.split(IMAGE_MARK), iter(self.pictures)
        parts = [part for text in texts for part in (text, next(pictures, None)) if part is not None and part != ""]
        return Converse(messages=(Turn.user(*parts),), answer="text", keep=False, **how)


def without_leading_marks(words: str) -> str:
    """`words` without the marks before the first word."""
    while words.lstrip().startswith(IMAGE_MARK):
        words = words.lstrip().removeprefix(IMAGE_MARK).lstrip()
    return words


def room_after(pipeline: IllumePipeline, task: Ask | Converse) -> int:
    """How many tokens the model and its cache take behind the prompt of a question."""
    (request,) = pipeline.tasks.requests(replace(task, max_new_tokens=1))
    engine = pipeline.engine
    longest = engine.model.decoder.config.max_position_embeddings
    return min(longest, engine.cache.capacity * engine.config.page_size) - sum(map(len, request.prompt))


def seed_of(base: int, name: str, repeat: int) -> int:
    """A seed for the `repeat`-th answer to a question, which depends on nothing but these."""
    return (base + (zlib.crc32(name.encode()) << 20) + repeat) % 2**63


def answers(
    pipeline: IllumePipeline,
    questions: Sequence[Callable[[], Question]],
    on_failure: OnFailure,
    advance: Callable[[], object] = lambda: None,
) -> list[str]:
    """The answer to each question, which is made as the pipeline asks for it; none depends on the others.

    `on_failure` is given the reason of each that fails; where it returns, the answer is "".
    """
    wordings: dict[int, Wording] = {}

    def task(number: int) -> Ask | Converse:
        question = questions[number]()
        wordings[number] = question.wording
        return question.task(pipeline)

    found = _through(pipeline, task, len(questions), on_failure, advance)
    return [wordings[n].cut(found[n].text or "").strip() if n in found else "" for n in range(len(questions))]


def drawings(
    pipeline: IllumePipeline,
    tasks: Sequence[Callable[[], Draw | Converse]],
    on_failure: OnFailure,
) -> list[Image.Image | None]:
    """The picture of each task; None where it failed and `on_failure` returned."""
    found = _through(pipeline, lambda number: tasks[number](), len(tasks), on_failure)
    return [found[n].picture if n in found else None for n in range(len(tasks))]


def _through(
    pipeline: IllumePipeline,
    make: Callable[[int], Task],
    count: int,
    on_failure: OnFailure,
    advance: Callable[[], object] = lambda: None,
) -> dict[int, Any]:
    """What becomes of the tasks, by number, without those that failed."""

    def tasks() -> Iterator[Task]:
        for number in range(count):
            try:
                task = replace(make(number), tag=number)
            except InputError as error:
                on_failure(error)
                advance()
                continue
            yield task

    found = {}
    for done in pipeline.generate_stream(tasks()):
        if done.error is None:
            found[done.task.tag] = done
        else:
            on_failure(done.error)
        advance()
    return found
