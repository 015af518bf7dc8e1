"""Questions, and pictures to be drawn, through one stream of the pipeline, which batches them."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from illume_fast.data.chat import IMAGE_MARK
from illume_fast.data.errors import InputError
from illume_fast.integrations.lmms_eval.wording import GREEDY, Wording
from illume_fast.pipeline import Ask, Draw, IllumePipeline

OnFailure = Callable[[Exception], None]
Task = Ask | Draw


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """What is asked about some pictures; `id` names it in messages, `seed` starts its chance."""

    id: str
    words: str
    pictures: Sequence[Image.Image] = ()
    wording: Wording = GREEDY
    seed: int = 0

    def task(self, pipeline: IllumePipeline) -> Ask:
        """The question as a task of the pipeline; its longest answer ends where the model's context does."""
        ask = Ask(
            prompt=without_marks(self.words, len(self.pictures), self.id),
            images=self.pictures,
            max_new_tokens=self.wording.max_new_tokens,
            temperature=self.wording.temperature,
            top_k=self.wording.top_k,
            top_p=self.wording.top_p,
            seed=self.seed,
            id=self.id,
        )
        most = pipeline.tasks.generation.max_answer if ask.max_new_tokens is None else ask.max_new_tokens
        return replace(ask, max_new_tokens=max(1, min(most, room_after(pipeline, ask))))


def room_after(pipeline: IllumePipeline, ask: Ask) -> int:
    """How many tokens the model and its cache take behind the prompt of `ask`."""
    (request,) = pipeline.tasks.requests(replace(ask, max_new_tokens=1))
    engine = pipeline.engine
    longest = engine.model.decoder.config.max_position_embeddings
    return min(longest, engine.cache.capacity * engine.config.page_size) - sum(map(len, request.prompt))


def without_marks(words: str, pictures: int, origin: str) -> str:
    """`words` without the marks that stand for their pictures, which are put before the words.

    Raises:
        InputError: there are marks within the words, or more or fewer than pictures.
    """
    marks = words.count(IMAGE_MARK)
    if not marks:
        return words
    if marks != pictures:
        raise InputError(f"{origin}: {marks} marks {IMAGE_MARK} for {pictures} pictures")
    rest = words.replace(IMAGE_MARK, "", marks)
    if words.rindex(IMAGE_MARK) > len(words) - len(rest.lstrip()):
        raise InputError(f"{origin}: {IMAGE_MARK} stands within the words; pictures can only stand before them")
    return rest.strip()


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

    def task(number: int) -> Ask:
        question = questions[number]()
        wordings[number] = question.wording
        return question.task(pipeline)

    found = _through(pipeline, task, len(questions), on_failure, advance)
    return [wordings[n].cut(found[n].text or "").strip() if n in found else "" for n in range(len(questions))]


def drawings(
    pipeline: IllumePipeline,
    tasks: Sequence[Callable[[], Draw]],
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
