"""Shards: some hundred pictures in one file, as WebDataset reads them (tar) or as a table (parquet).

Pictures stay the PNG files they are, text chunks included. In a tar file a picture is two members, KEY.png and
KEY.json (its record); the keys of WebDataset end at the first dot, so a dot of an id is written %2E there.
"""

import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from illume_fast.data.errors import InputError

_ROWS_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Item:
    """A picture on its way into a shard: its key there, its record and its PNG file."""

    key: str
    record: dict[str, Any]
    png: bytes


@dataclass(frozen=True)
class Packer:
    """A format of shards: how a shard is written, and how PNG files of some keys are read from it again."""

    suffix: str
    write: Callable[[BinaryIO, Iterable[Item]], None]
    read: Callable[[BinaryIO, Collection[str]], Iterator[tuple[str, bytes]]]
    require: Callable[[], object]


def key_of(id: str, index: int) -> str:
    """The key of a picture in a shard; different pictures have different ones."""
    return f"{id.replace('.', '%2E')}_{index}"


def _write_tar(file: BinaryIO, items: Iterable[Item]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            record = json.dumps(item.record, ensure_ascii=False).encode()
            for name, data in ((f"{item.key}.png", item.png), (f"{item.key}.json", record)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _read_tar(file: BinaryIO, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            if suffix == "png" and key in keys and (content := tar.extractfile(member)) is not None:
                yield key, content.read()


def _write_parquet(file: BinaryIO, items: Iterable[Item]) -> None:
    pyarrow, parquet = _pyarrow()
    text, number = pyarrow.string(), pyarrow.int64()
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    kinds = {"key": text, "id": text, "index": number, "prompt": text, "seed": number, "guidance": pyarrow.float64()}
    schema = pyarrow.schema([*kinds.items(), ("size", text), ("tokens", text), ("image", image), ("record", text)])
    with parquet.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, Any]] = []
        for item in items:
            own = {name: item.record.get(name) for name in schema.names}
            picture = {"bytes": item.png, "path": f"{item.key}.png"}
            record = json.dumps(item.record, ensure_ascii=False)
            rows.append({**own, "key": item.key, "image": picture, "record": record})
            if len(rows) == _ROWS_TOGETHER:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _read_parquet(file: BinaryIO, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(file).iter_batches(batch_size=_ROWS_TOGETHER, columns=["key", "image"]):
        for row in batch.to_pylist():
            if row["key"] in keys:
                yield row["key"], row["image"]["bytes"]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("the format parquet needs pyarrow (pip install pyarrow)") from None
    return pyarrow, pyarrow.parquet


PACKERS = {
    "webdataset": Packer(".tar", _write_tar, _read_tar, lambda: None),
    "parquet": Packer(".parquet", _write_parquet, _read_parquet, _pyarrow),
}
