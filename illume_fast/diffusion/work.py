"""Work that an accelerator is given piece by piece, as soon as it has done with the last piece."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch


class Work:
    """The end of work done in pieces, asked for like a CUDA event.

    `query` begins the next piece if the last has ended and never waits, so whoever asks now and then (the pipeline,
    between steps of its engine) keeps the work going without queueing much of it; without a stream a piece is done
    within the call. What a piece raises ends the work, and `synchronize` raises it.
    """

    def __init__(self, pieces: Iterator[None], device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self._pieces, self._stream = pieces, stream
        self._mark: torch.cuda.Event | None = None
        self._ended = False
        self._error: Exception | None = None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(device))

    def query(self) -> bool:
        """Whether all is done; if not, and nothing is under way, the next piece is begun."""
        if not self._ended and self._idle:
            self._begin()
        return self._ended and self._idle

    def synchronize(self) -> None:
        """Do what is left and wait for it. Raises what a piece raised."""
        while not self._ended:
            self._begin()
        if self._mark is not None:
            self._mark.synchronize()
        if self._error is not None:
            raise self._error

    @property
    def _idle(self) -> bool:
        return self._mark is None or self._mark.query()

    @torch.no_grad()
    def _begin(self) -> None:
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            try:
                next(self._pieces)
            except StopIteration:
                self._ended = True
            except Exception as error:
                self._ended, self._error = True, error
            if self._stream is not None:
                self._mark = self._stream.record_event()
