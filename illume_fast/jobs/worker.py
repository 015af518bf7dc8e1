"""One worker of a job, from start to end, in the process that calls it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Ledger
from illume_fast.jobs.loading import ModelSource, on_backend
from illume_fast.jobs.painter import Painter, load_painter
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.source import Row, once
from illume_fast.jobs.stores import Store, open_store
from illume_fast.jobs.stream import draw_all
from illume_fast.jobs.work import Observer, Work
from illume_fast.pipeline import Done, IllumePipeline


def run_worker(
    rows: Iterator[Row],
    config: JobConfig,
    shard: Shard,
    device: str,
    observer: Observer,
    pipeline: IllumePipeline | None = None,
) -> None:
    """Draw what is missing of one part of a job; `pipeline` serves instead of the model that `config` names.

    Raises:
        InputError: the folder, the model or an option cannot be used, the prompt file turned out to be damaged, or with
            `strict` a picture failed. What was done is recorded.
        CheckpointError: the model is missing or damaged.
    """
    with (
        Ledger(config.out, shard, config.format) as ledger,
        _painter(config, device, pipeline, observer) as painter,
    ):
        painter.check(config)
        store = open_store(ledger, config.format, config.per_file)
        work = Work(once(rows), config, painter, ledger, store, observer)
        draw_all(painter, work, lambda done: keep(done, work, store, painter), observer.say)
        if work.error is not None:
            raise work.error
        store.finish()
        ledger.finish()


def keep(done: Done, work: Work, store: Store, painter: Painter) -> None:
    """Write a result down: the picture, or why there is none."""
    record = done.task.tag
    key = record["id"], record["index"]
    if done.error is not None or done.codes is None:
        work.fail(key, _reason(done.error, work.origin(key)))
        return
    store.add({**record, **painter.made_by(), "tokens": hash_of(done.codes)}, done.picture)
    work.finished(key)
    work.observer.drawn()


def hash_of(codes: ImageCodes) -> str:
    """SHA-256, in hexadecimal, of a picture's size and codes as little-endian int64: pictures of one hash are equal."""
    digest = hashlib.sha256(f"{codes.height}x{codes.width}".encode())
    for level in codes.levels:
        digest.update(level.to("cpu", torch.int64).contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _reason(error: Exception | None, origin: str) -> str:
    text = " ".join(str(error).split())
    # our own errors say what is wrong in a sentence; of others the kind is worth knowing
    ours = error is not None and type(error).__module__.startswith("illume_fast.")
    if not ours or not text:
        return f"{type(error).__name__}: {text}"
    # what is wrong with a row should say which; the engine's errors name their request
    return f"{origin}: {text}" if isinstance(error, InputError) and origin else text


@contextmanager
def _painter(config: JobConfig, device: str, pipeline: IllumePipeline | None, observer: Observer) -> Iterator[Painter]:
    if pipeline is None:
        source = ModelSource.of(config)
        with load_painter(source, config.backend, config.batch_size, device, observer.say) as painter:
            yield painter
    else:
        with on_backend(config.backend):
            yield Painter(pipeline, config.model)
