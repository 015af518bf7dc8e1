"""A job at several sizes: every row that says no size of its own is drawn at each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from illume_fast.data.errors import InputError
from illume_fast.data.prompts import Prompt, parse_size
from illume_fast.jobs.config import JobConfig, option
from illume_fast.jobs.source import Row, Source

if TYPE_CHECKING:
    from illume_fast.pipeline import IllumePipeline


class AtSizes:
    """The rows of another source, once for each size; their ids end in the size: `0000_512x384`."""

    def __init__(self, source: Source, sizes: Sequence[tuple[int, int]]) -> None:
        self._source, self._sizes = source, sizes
        self.total_known = source.total_known

    def rows(self) -> Iterator[Row]:
        """The rows, those with a size and those that are none as they are."""
        for row in self._source.rows():
            if not isinstance(row, Prompt) or row.size is not None:
                yield row
                continue
            for height, width in self._sizes:
                yield replace(row, id=f"{row.id}_{height}x{width}", size=(height, width))


def at_sizes(source: Source, config: JobConfig, pipeline: "IllumePipeline | None") -> tuple[Source, JobConfig]:
    """The source and config of a job of one size, where `config` names several.

    Raises:
        InputError: the model does not draw one of them.
        CheckpointError: the model is missing or its config damaged.
    """
    if not config.several_sizes or config.size is None:
        return source, config
    from illume_fast.data.sizes import format_size, format_sizes
    from illume_fast.model.checkpoint import read_config, resolve

    known = read_config(resolve(config.model)) if pipeline is None else pipeline.checkpoint.config
    allowed = known.generation.allowed_sizes
    if config.size == "all":
        return AtSizes(source, known.generation.sizes), replace(config, size=None)
    sizes = tuple(dict.fromkeys(map(parse_size, config.size.split(","))))
    for size in sizes:
        if size not in allowed:
            raise InputError(
                f"{option('size')}: size {format_size(size)} is not supported; allowed are {format_sizes(allowed)}"
            )
    return AtSizes(source, sizes), replace(config, size=None)
