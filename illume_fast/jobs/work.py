"""Rows as tasks for the pipeline, read as it asks for them and without what is made already."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_picture
from illume_fast.data.prompts import BadRow, Prompt, parse_size
from illume_fast.data.sizes import format_size, nearest_size
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Record
from illume_fast.jobs.painter import Painter
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.source import Row
from illume_fast.jobs.stores import Store
from illume_fast.pipeline import Draw

Key = tuple[str, int]


class Observer(Protocol):
    """Hears what becomes of each picture."""

    def kept(self) -> None:
        """A picture was there already."""
        ...

    def drawn(self) -> None:
        """A picture was made and recorded."""
        ...

    def failed(self, reason: str) -> None:
        """A picture could not be made, and that was recorded."""
        ...

    def say(self, text: str) -> None:
        """Something that the user should know."""
        ...


class Failures(Protocol):
    """Where failures of one part of a job are written down; in a job of its own the `Ledger`."""

    @property
    def shard(self) -> Shard: ...

    def fail(self, id: str, index: int, reason: str) -> None: ...


class Work:
    """An iterator of the tasks of one worker, each tagged with its picture's record.

    It holds the tasks that were handed out and are not finished, and hands them out again after `again`; so no more
    than the pipeline has in flight is in memory. After `stop`, or when the source itself turns out to be bad, it ends
    and what is in flight can still be finished; `error` is what it ended for. `count` tasks were done with.
    """

    def __init__(
        self,
        rows: Iterator[Row],
        config: JobConfig,
        painter: Painter,
        ledger: Failures,
        store: Store,
        observer: Observer,
    ) -> None:
        self.config, self.painter, self.ledger = config, painter, ledger
        self.observer = observer
        self.error: InputError | None = None
        self.count = 0
        self._missing = self._without_made(rows, store)
        self._queue: deque[tuple[Prompt, Record]] = deque()
        self._pending: dict[Key, tuple[Prompt, Record]] = {}
        self._source: tuple[object, Image.Image | None] = (None, None)

    def __iter__(self) -> Iterator[Draw]:
        return self

    def __next__(self) -> Draw:
        while self.error is None:
            prompt, record = self._next()
            try:
                task = self._task(prompt, record)
            except InputError as error:
                self.fail((record["id"], record["index"]), str(error))
            except BaseException:
                # memory ran out; the row is still to be drawn
                self._queue.appendleft((prompt, record))
                raise
            else:
                self._pending[record["id"], record["index"]] = prompt, record
                return task
        raise StopIteration

    def origin(self, key: Key) -> str:
        """Where the row of an unfinished task stands; empty where it stands in no file or list."""
        return self._pending[key][0].origin

    def finished(self, key: Key) -> None:
        """A task was done with, well or not."""
        self.count += 1
        self._pending.pop(key, None)

    def fail(self, key: Key, reason: str) -> None:
        """Record that a picture could not be made; with `strict` that ends the work."""
        self.ledger.fail(*key, reason)
        self.finished(key)
        self.observer.failed(reason)
        if self.config.strict:
            self.stop(InputError(reason))

    def stop(self, error: InputError) -> None:
        """Hand out nothing more."""
        self.error = self.error or error

    def again(self) -> None:
        """Hand out what is unfinished once more, in the same order."""
        self._queue.extendleft(reversed(self._pending.values()))
        self._pending.clear()

    @property
    def first_unfinished(self) -> Key | None:
        """The picture that is handed out next, after `again`."""
        return next(((record["id"], record["index"]) for _, record in self._queue), None)

    def drop(self, key: Key, reason: str) -> None:
        """Record an unfinished picture as failed and do not hand it out again."""
        self._queue = deque((p, r) for p, r in self._queue if (r["id"], r["index"]) != key)
        self.fail(key, reason)

    def _next(self) -> tuple[Prompt, Record]:
        if self._queue:
            return self._queue.popleft()
        try:
            return next(self._missing)
        except InputError as error:
            self.stop(error)
            raise StopIteration from None
        except MemoryError:
            self.stop(InputError("out of memory reading prompts; what was done is kept"))
            raise StopIteration from None

    def _without_made(self, rows: Iterator[Row], store: Store) -> Iterator[tuple[Prompt, Record]]:
        shard = self.ledger.shard
        for row in rows:
            if isinstance(row, BadRow):
                if shard.owns(row.id, 0):
                    self.fail((row.id, 0), row.reason)
                    if self.error is not None:
                        return
                continue
            for index in range(row.num_images or self.config.num_images):
                if not shard.owns(row.id, index):
                    continue
                record = self.painter.wanted(row, index, self.config)
                if store.has(record):
                    self.observer.kept()
                else:
                    yield row, record

    def _task(self, prompt: Prompt, record: Record) -> Draw:
        """The task of a picture. InputError when its source or size cannot be used."""
        picture = self._load(prompt)
        if picture is not None and "size" not in record:
            own = nearest_size((picture.height, picture.width), self.painter.pipeline.sizes)
            record = {**record, "size": format_size(own)}
        size = parse_size(record["size"])
        if prompt.size is not None:
            self.painter.check_size(size, prompt.origin)
        return Draw(
            prompt=prompt.prompt,
            image=picture,
            size=size,
            guidance=record["guidance"],
            negative_prompt=record["negative_prompt"],
            guidance_from=record["guidance_from"] or 0,
            guidance_until=record["guidance_until"],
            sampling=record["sampling"],
            temperature=record["temperature"],
            top_k=record["top_k"],
            top_p=record["top_p"],
            # every picture has its own seed, so that any can be drawn without the others
            seed=record["seed"],
            id=f"{prompt.id}_{record['index']}",
            tag=record,
        )

    def _load(self, prompt: Prompt) -> Image.Image | None:
        if prompt.image is None:
            return None
        if self._source[0] != prompt.image:
            # kept for the other pictures of the row
            self._source = prompt.image, load_picture(prompt.image, prompt.origin)
        return self._source[1]
