"""Samples while they are made: how often they are shown, and what is shown of them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from illume_fast.data.chat import Written
from illume_fast.decoding import PictureDecoder
from illume_fast.engine import Partial, Request, sample_seed
from illume_fast.outcome import Draft, Drawn, OnDraft, shown_parts, undecodable
from illume_fast.partials import partial_pixels
from illume_fast.tasks import Tasks

_DRAFTS = 10
"""Drafts of a picture, unless it is said after how many draws one is wanted."""


class Drafts:
    """Makes a `Draft` of every sample under way for `on_draft`, after every `every` draws of it.

    Where `every` is None there are about ten of a picture, and one for each token of an answer.
    """

    def __init__(self, tasks: Tasks, decoder: PictureDecoder, on_draft: OnDraft, every: int | None) -> None:
        self._tasks, self._decoder = tasks, decoder
        self._on_draft, self._every = on_draft, every

    def asked(self, request: Request) -> Request:
        """`request`, of which the engine tells as often as wished."""
        drawn = 0 if request.tag.grid is None else len(request.plan.draws)
        return replace(request, partial_every=max(1, drawn // _DRAFTS) if self._every is None else self._every)

    def show(self, under_way: Partial) -> None:
        """Give `on_draft` a sample as far as it is made."""
        request, wanted = under_way.request, under_way.request.tag
        seed = sample_seed(request.seed, under_way.sample)
        before = () if wanted.answer is None else wanted.answer.parts
        parts = shown_parts([part if isinstance(part, Written) else Drawn(part) for part in before])
        draft = Draft(task=wanted.task, sample=wanted.sample, seed=seed, parts=parts)
        if wanted.grid is None:
            self._on_draft(replace(draft, text=self._tasks.words_so_far(under_way.ids)))
            return
        try:
            codes = self._tasks.codes_so_far(under_way.ids, wanted.grid)
            draft = replace(draft, pixels=partial_pixels(codes, self._decoder), fraction=codes.fraction)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            draft = replace(draft, error=undecodable(wanted.task, error))
        self._on_draft(draft)


class Growing:
    """The text of an answer, given to `on_text` whenever it has grown."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.text = ""

    def show(self, text: str | None) -> str:
        """Take in the answer so far; what has been shown."""
        if text and text != self.text:
            self.text = text
            self._on_text(text)
        return self.text
