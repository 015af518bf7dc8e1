"""Answers of words with pictures between them, over the stages of `tasks.answer`, for prompts that are ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from illume_fast.data.sizes import Size
from illume_fast.engine import Engine, Request, SamplingParams, Segment
from illume_fast.huggingface.requests import Painting, Prompt
from illume_fast.stream import Stream
from illume_fast.tasks import Answer, Converse, Task, Tasks


@dataclass(frozen=True, eq=False)
class Interleaving:
    """What all rows of a batch have in common; `size` None lets the model choose among its sizes."""

    words: SamplingParams
    painting: Painting
    size: Size | None
    max_new_tokens: int | None

    def ids(self, engine: Engine, prompts: Sequence[Prompt], rows: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
        """The ids of each answer, int64 [S]; `rows` says which row of the batch each prompt is."""
        rounds = _Rounds(self, list(zip(prompts, rows, strict=True)))
        tasks = [self._task(seed, place) for place, seed in enumerate(seeds)]
        for done in Stream(rounds, engine, None, None).results(tasks, None):
            if done.error is not None:
                raise done.error
        return [torch.tensor(rounds.answers[place].ids, dtype=torch.int64) for place in range(len(tasks))]

    def _task(self, seed: int, place: int) -> Converse:
        most = self.max_new_tokens
        return Converse(messages=(), size=self.size, max_new_tokens=most, seed=seed, keep=False, tag=place)


class _Rounds(Tasks):
    """Hands the stream the answers to rows of ids where it asks for those to conversations."""

    def __init__(self, common: Interleaving, rows: Sequence[tuple[Prompt, int]]) -> None:
        # all that those tasks know, without reading their tokenizer again
        vars(self).update(vars(common.painting.tasks))
        self._common, self._rows = common, rows
        self.answers: dict[int, _RowAnswer] = {}

    def requests(self, task: Task) -> list[Request]:
        assert isinstance(task, Converse)
        prompt, row = self._rows[task.tag]
        answer = self.answers[task.tag] = _RowAnswer(self, task, self._common, prompt, row)
        assert answer.request is not None
        return [answer.request]


class _RowAnswer(Answer):
    """An answer whose prompt is a row of ids."""

    def __init__(self, tasks: Tasks, task: Converse, common: Interleaving, prompt: Prompt, row: int) -> None:
        self._common, self._row, self._number = common, prompt, row
        self._last: tuple[int, ...] = ()
        super().__init__(tasks, task)

    @property
    def ids(self) -> list[int]:
        """All that was written behind the row's own ids, size tags included."""
        written = self._prompt[len(self._row.segments) :]
        return [*(i for segment in written for i in segment.ids), *self._last]

    def take(self, ids: Tensor) -> None:
        assert self.request is not None
        picture = self.request.tag.grid is not None
        super().take(ids)
        # the last words are no part of any prompt
        self._last = () if picture or self.request is not None else tuple(ids.tolist())

    def _begin(self) -> Request:
        common = self._common
        self._words, self._drawing = common.words, common.painting.sampling(self._row)
        if self.task.size is not None:
            self._tools.grid(self.task.size)
        self._prompt = self._row.segments
        return self._write()

    def _free(self, size: Size) -> tuple[Segment, ...]:
        return self._common.painting.free(self._row, size, self._number)
