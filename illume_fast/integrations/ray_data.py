"""Ray Data: prompts of a data set become pictures, on as many machines as the cluster has.

    import ray
    from illume_fast.integrations.ray_data import generate_dataset

    drawn = generate_dataset(ray.data.read_csv("prompts.csv"), workers=8, num_gpus=1)
    drawn.write_parquet("pictures")

Needs Ray (`pip install 'illume-fast[ray]'`). Ray moves the rows, starts workers again and writes the results; of the
jobs of `illume_fast.generate_batch` this has the tasks and the failures, but no ledger.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.data.png import encode_png
from illume_fast.data.prompts import prompt_or_bad
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Record
from illume_fast.jobs.loading import ModelSource
from illume_fast.jobs.painter import load_painter
from illume_fast.jobs.shard import WHOLE, Shard
from illume_fast.jobs.source import Row
from illume_fast.jobs.stream import draw_all
from illume_fast.jobs.tally import Tally
from illume_fast.jobs.work import Work
from illume_fast.jobs.worker import keep

ROWS_TOGETHER = 256


class DrawBatch:
    """A callable for `map_batches(DrawBatch, batch_format="pyarrow")`; each actor loads the model once.

    A row has a `prompt` and, if wished, `seed`, `size` ("HxW"), `num_images`, `image` (the absolute path of a picture
    to edit), `guidance`, `negative_prompt`, `guidance_from` and `guidance_until`; `settings` are those of
    `generate_batch` for rows that do not say. Each picture is a row: all columns of its prompt's row, then `index`,
    `png` (the file, with text chunks), `tokens` (the hash of its codes), `record` (JSON: how it was made) and `error`,
    the reason where there is no picture.
    """

    def __init__(self, model: str = "demo", device: str = "cpu", **settings: Any) -> None:
        self.config = JobConfig(out=Path(), model=model, **settings)
        self.config.check()
        # kept open as long as the actor lives
        self._stack = ExitStack()
        self.painter = self._stack.enter_context(
            load_painter(ModelSource.of(self.config), self.config.backend, self.config.batch_size, device)
        )
        self.painter.check(self.config)

    def __call__(self, table: Any) -> Any:
        """pyarrow table of prompts -> pyarrow table of pictures, in the order of the prompts."""
        import pyarrow

        drawn = _Drawn()
        work = Work(self._rows(table), self.config, self.painter, drawn, drawn, Tally(None))
        draw_all(self.painter, work, partial(keep, work=work, store=drawn, painter=self.painter), print)
        if work.error is not None:
            raise work.error
        rows = [drawn.rows[place] for place in sorted(drawn.rows)]
        text = pyarrow.string()
        kinds = {"index": pyarrow.int64(), "png": pyarrow.binary(), "tokens": text, "record": text, "error": text}
        pictures = table.take([number for number, _ in sorted(drawn.rows)])
        for name, kind in kinds.items():
            column = pyarrow.array([row[name] for row in rows], kind)
            if name in pictures.column_names:
                pictures = pictures.drop_columns([name])
            pictures = pictures.append_column(name, column)
        return pictures

    @staticmethod
    def _rows(table: Any) -> Iterator[Row]:
        for number, row in enumerate(table.to_pylist()):
            name = row.pop("id", None)
            # the number stands for the row, whose own id need not be unique, or be there
            yield prompt_or_bad({**row, "id": str(number)}, number, f"row {number if name is None else name}")


class _Drawn:
    """Keeps the pictures of a batch and its failures, by (row, index)."""

    shard: Shard = WHOLE

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}

    def has(self, wanted: Record) -> bool:
        return False

    def add(self, record: Record, picture: Image.Image) -> None:
        place, said = (int(record["id"]), record["index"]), {k: v for k, v in record.items() if k != "id"}
        png, text = encode_png(picture, said), json.dumps(said, ensure_ascii=False)
        self.rows[place] = {"index": place[1], "png": png, "tokens": record["tokens"], "record": text, "error": None}

    def fail(self, id: str, index: int, reason: str) -> None:
        nothing = {"png": None, "tokens": None, "record": None}
        self.rows[int(id.removeprefix("#")), index] = {"index": index, "error": reason, **nothing}

    def finish(self) -> None:
        pass


def generate_dataset(
    dataset: Any, model: str = "demo", *, workers: int = 1, num_gpus: float = 0, num_cpus: float = 1, **settings: Any
) -> Any:
    """A `ray.data.Dataset` of prompts -> one of pictures, drawn when it is read; columns as `DrawBatch` says.

    `workers` actors load the model, each with `num_gpus` GPUs and `num_cpus` cores; `settings` are those of
    `generate_batch` that say how pictures are drawn (`seed`, `guidance`, `size`, `num_images`, `batch_size`, ...).

    Raises:
        InputError: Ray is not installed, or a setting cannot be used.
    """
    try:
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise InputError("Ray Data is not installed (pip install 'illume-fast[ray]')") from None
    JobConfig(out=Path(), model=model, **settings).check()
    return dataset.map_batches(
        DrawBatch,
        batch_format="pyarrow",
        batch_size=max(ROWS_TOGETHER, settings.get("batch_size", 0)),
        compute=ActorPoolStrategy(size=workers),
        fn_constructor_kwargs={"model": model, "device": "cuda" if num_gpus else "cpu", **settings},
        num_gpus=num_gpus,
        num_cpus=num_cpus,
    )
