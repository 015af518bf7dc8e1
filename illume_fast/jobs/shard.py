"""Which of several workers draws a picture: a rule that needs no talk between them."""

import re
import zlib
from dataclasses import dataclass
from typing import Self

from illume_fast.data.errors import InputError

MAX_SHARDS = 10_000


@dataclass(frozen=True)
class Shard:
    """The `number`-th (from 1) of `count` equal parts of a job.

    A picture belongs to a part by the CRC-32 of its id (in lower case) and index alone: not by its place in the prompt
    file, so that rows may be added, removed and moved between runs; and the pictures of one prompt spread over all.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str, name: str = "shard") -> Self:
        """Read "2/3". InputError, beginning with `name`, for anything that is no such pair."""
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MAX_SHARDS:
            raise InputError(
                f"{name} {text!r} is not I/N with I from 1 to N and N at most {MAX_SHARDS}, for example 2/3"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def label(self) -> str:
        """What distinguishes the files of this part: "" for the whole job, else "-2-of-3"."""
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"

    def owns(self, id: str, index: int) -> bool:
        """Whether the picture is this part's."""
        return zlib.crc32(f"{id.lower()} {index}".encode()) % self.count == self.number - 1

    def split(self, workers: int) -> "list[Shard]":
        """This part in `workers` parts of an accordingly larger count."""
        first = (self.number - 1) * workers
        return [Shard(first + worker + 1, self.count * workers) for worker in range(workers)]


WHOLE = Shard()
"""The only part of a job that is not divided."""
