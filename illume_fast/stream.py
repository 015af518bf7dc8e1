"""Tasks to results: requests given to the engine as it asks for them, and results whose pictures are being decoded."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from illume_fast.data.chat import Written
from illume_fast.data.memory import out_of_memory
from illume_fast.data.sequence import ImageCodes
from illume_fast.decoding import Decoded, DecodingQueue
from illume_fast.drafts import Drafts
from illume_fast.engine import Engine, Progress, Request, Result, sample_seed
from illume_fast.engine.request import OnStep
from illume_fast.outcome import Done, Drawn, undecodable
from illume_fast.records import record_of
from illume_fast.tasks import Answer, Task, Tasks, Wanted


@dataclass(eq=False)
class _Whole:
    """A result to be: what `done` says (None: more is to come), and its pictures, of which some are being decoded."""

    task: Task
    done: Done | None = None
    pictures: list[Tensor | None] = field(default_factory=list)
    decoding: int = 0
    error: Exception | None = None

    def result(self) -> Done | None:
        """The result, once it is whole."""
        done = self.done
        if done is None or self.decoding:
            return None
        if self.error is not None and done.error is None:
            done = replace(done, error=self.error)
        pixels = iter(self.pictures)
        answer = tuple(replace(p, pixels=next(pixels)) if isinstance(p, Drawn) else p for p in done.answer)
        return replace(done, answer=answer, pixels=self.pictures[0] if done.codes is not None else None)


class Stream:
    """The way of some tasks through an engine and a queue of pictures; without a queue their codes come alone."""

    def __init__(
        self,
        tasks: Tasks,
        engine: Engine,
        queue: DecodingQueue[tuple[_Whole, int]] | None,
        drafts: Drafts | None,
        made_with: Mapping[str, Any] | None = None,
    ) -> None:
        """`made_with` goes into the records of results."""
        self._tasks, self._engine, self._queue, self._drafts = tasks, engine, queue, drafts
        self._made_with = dict(made_with or {})
        self._refused: list[Done] = []
        self._further: deque[Request] = deque()  # what answers under way go on with
        self._answers: dict[Answer, _Whole] = {}

    def results(self, tasks: Iterable[Task], on_step: OnStep | None) -> Iterator[Done]:
        """Yield results as they become whole."""
        self._tasks.eyes.refresh()
        requests = self._requests(iter(tasks))
        while True:
            show = None if self._drafts is None else self._drafts.show
            for result in self._engine.generate(requests, partial(self._stepped, on_step), show):
                yield from self._taken_refused()
                yield from self._take(result)
            yield from self._taken_refused()
            # where results come late, the last of a run may be the first half of an answer
            if not self._answers:
                break
        if self._queue is not None:
            for decoded in self._queue.flush():
                yield from self._decoded(decoded)

    def _stepped(self, on_step: OnStep | None, progress: Progress) -> None:
        if self._queue is not None:
            self._queue.advance()
        if on_step is not None:
            on_step(progress)

    def _requests(self, tasks: Iterator[Task]) -> Iterator[Request | None]:
        """What answers under way go on with before what is new; None while they have nothing yet."""
        for task in tasks:
            yield from self._requests_of(task)
            while self._further:
                yield self._further.popleft()
        while self._answers:
            yield self._further.popleft() if self._further else None

    def _requests_of(self, task: Task) -> Iterator[Request]:
        try:
            if self._queue is not None and task.draws:
                self._queue.check()
            requests = self._tasks.requests(task)
        except Exception as error:
            # a tokenizer or an encoder that breaks on a task is that task's trouble; a lack of memory everybody's
            if out_of_memory(error):
                raise
            self._refused.append(Done(task=task, sample=0, seed=task.seed, error=error))
            return
        for request in requests:
            if (answer := request.tag.answer) is not None:
                self._answers[answer] = _Whole(task)
            yield self._shown(request)

    def _shown(self, request: Request) -> Request:
        return request if self._drafts is None else self._drafts.asked(request)

    def _take(self, result: Result) -> Iterator[Done]:
        wanted: Wanted = result.request.tag
        if wanted.answer is not None:
            yield from self._take_part(wanted.answer, result)
            return
        record = record_of(wanted.task, result.seed, self._tasks) | self._made_with
        done = Done(task=wanted.task, sample=wanted.sample, seed=result.seed, record=record, error=result.error)
        whole = _Whole(wanted.task, done)
        if result.error is None and wanted.grid is None:
            whole.done = replace(done, text=self._tasks.words(result.ids))
        elif result.error is None and wanted.grid is not None:
            codes = self._tasks.codes(result.ids, wanted.grid)
            whole.done = replace(done, codes=codes)
            yield from self._decode(whole, codes, result.seed)
            return
        yield from _if_whole(whole)

    def _take_part(self, answer: Answer, result: Result) -> Iterator[Done]:
        """A stage of an answer is through: the next one, or the answer is whole."""
        whole, parts = self._answers[answer], len(answer.parts)
        error: Exception | None = result.error
        if error is None:
            try:
                answer.take(result.ids)
            except Exception as problem:
                if out_of_memory(problem):
                    raise
                error = problem
        if error is None and answer.request is not None:
            self._further.append(self._shown(answer.request))
        else:
            del self._answers[answer]
            whole.done = self._answered(answer, error)
        codes = [part for part in answer.parts[parts:] if isinstance(part, ImageCodes)]
        for picture in codes:
            yield from self._decode(whole, picture, sample_seed(answer.task.seed, len(whole.pictures)))
        if not codes:
            yield from _if_whole(whole)

    def _answered(self, answer: Answer, error: Exception | None) -> Done:
        task = answer.task
        parts = tuple(Drawn(part) if isinstance(part, ImageCodes) else part for part in answer.parts)
        words = "\n".join(part.text for part in answer.parts if isinstance(part, Written) and part.text)
        record = record_of(task, task.seed, self._tasks) | self._made_with
        done = Done(task=task, sample=0, seed=task.seed, record=record, answer=parts, text=words or None, error=error)
        if task.answer == "image" and parts and isinstance(parts[0], Drawn):
            return replace(done, codes=parts[0].codes)
        return done

    def _decode(self, whole: _Whole, codes: ImageCodes, seed: int) -> Iterator[Done]:
        place = len(whole.pictures)
        whole.pictures.append(None)
        if self._queue is None:
            yield from _if_whole(whole)
            return
        whole.decoding += 1
        for decoded in self._queue.add((whole, place), codes, seed):
            yield from self._decoded(decoded)

    def _decoded(self, decoded: Decoded[tuple[_Whole, int]]) -> Iterator[Done]:
        whole, place = decoded.key
        whole.decoding -= 1
        whole.pictures[place] = decoded.pixels
        if decoded.error is not None:
            whole.error = undecodable(whole.task, decoded.error)
        yield from _if_whole(whole)

    def _taken_refused(self) -> list[Done]:
        taken, self._refused = self._refused, []
        return taken


def _if_whole(whole: _Whole) -> Iterator[Done]:
    done = whole.result()
    if done is not None:
        yield done
