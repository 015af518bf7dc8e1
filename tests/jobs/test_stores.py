"""Where pictures lie: what a killed worker left behind is finished, and nothing is made twice."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record, write_png
from illume_fast.jobs.ledger import Ledger
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.stores import open_store
from illume_fast.jobs.summary import Merged, write_lists

RED = Image.new("RGB", (8, 8), "red")
WHOLE = Shard()
FORMATS = ("png", "webdataset", "parquet")


def record(id="0000", index=0, **more):
    return {"id": id, "index": index, "prompt": "a käse 🧀", "seed": 3, "guidance": 2.0, "min_p": None, **more}


class Opened:
    """A ledger and its store, closed together."""

    def __init__(self, folder, format="png", per_file=3, shard=WHOLE):
        self.ledger = Ledger(folder, shard, format)
        try:
            self.store = open_store(self.ledger, format, per_file)
        except BaseException:
            self.ledger.close()
            raise

    def __enter__(self):
        return self.store

    def __exit__(self, *error):
        self.ledger.close()


def lines(folder):
    """What results.jsonl says, less where the pictures lie."""
    with Merged(folder, 1) as merged:
        write_lists(merged)
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("file", "member")} for line in found]


def members(folder):
    """The names of all pictures in all shards, each as often as it is there."""
    found = []
    for path in sorted((folder / "shards").iterdir()):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found += [name.removesuffix(".png") for name in tar.getnames() if name.endswith(".png")]
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            found += parquet.read_table(path)["key"].to_pylist()
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_added_is_there_and_there_again_after_reopening(tmp_path, format):
    folder = tmp_path / "a/b"
    with Opened(folder, format) as store:
        assert not store.has(record())
        store.add(record(), RED)
        assert store.has(record())
    with Opened(folder, format) as store:
        assert store.has(record())
        assert not store.has(record(index=1))
        store.finish()
        assert store.has(record())
    assert lines(folder) == [record()]


def test_the_picture_carries_its_record(tmp_path):
    write_png(tmp_path / "x.png", RED, record())
    assert read_record(tmp_path / "x.png") == record()
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text["prompt"] == "a käse 🧀"
        assert picture.text["seed"] == "3"
        assert "min_p" not in picture.text


def test_tar_files_are_what_webdataset_reads(tmp_path):
    with Opened(tmp_path, "webdataset", per_file=2) as store:
        for id in ("a", "b.c", "b_c"):
            store.add(record(id), RED)
        store.finish()
    files = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in files] == ["pictures-000000.tar", "pictures-000001.tar"]
    assert not list((tmp_path / "staging").iterdir())
    with tarfile.open(files[0]) as tar:
        # one sample is what lies side by side with the same name up to the first dot
        assert tar.getnames() == ["a_0.png", "a_0.json", "b%2Ec_0.png", "b%2Ec_0.json"]
        assert json.load(tar.extractfile("b%2Ec_0.json")) == record("b.c")
        picture = Image.open(io.BytesIO(tar.extractfile("a_0.png").read()))
        assert picture.text["prompt"] == record()["prompt"]


def test_parquet_has_columns_for_what_matters(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with Opened(tmp_path, "parquet", per_file=100) as store:
        for index in range(70):
            store.add(record(index=index, tokens="12ab"), RED)
        store.finish()
    (path,) = (tmp_path / "shards").iterdir()
    assert parquet.ParquetFile(path).num_row_groups == 2
    row = parquet.read_table(path).to_pylist()[69]
    assert (row["id"], row["index"], row["key"], row["seed"], row["tokens"]) == ("0000", 69, "0000_69", 3, "12ab")
    assert Image.open(io.BytesIO(row["image"]["bytes"])).text["seed"] == "3"
    assert json.loads(row["record"]) == record(index=69, tokens="12ab")


@pytest.mark.parametrize("format", ["png", "webdataset"])
def test_a_picture_without_a_row_is_taken_over(tmp_path, format):
    folder = tmp_path / ("images" if format == "png" else "staging")
    with Opened(tmp_path, format) as store:
        write_png(folder / "0000_0.png", RED, record(seconds=1))
        assert store.has(record())
        store.finish()
    assert lines(tmp_path) == [record(seconds=1)]


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_without_a_picture_is_made_again(tmp_path, format):
    with Opened(tmp_path, format) as store:
        store.add(record(), RED)
        store.finish()
    (path,) = (tmp_path / ("images" if format == "png" else "shards")).iterdir()
    path.unlink()
    with Opened(tmp_path, format) as store:
        assert not store.has(record())
        store.add(record(), RED)
        store.finish()
    assert lines(tmp_path) == [record()]


def test_a_staged_picture_that_was_deleted_is_made_again(tmp_path):
    with Opened(tmp_path, "webdataset") as store:
        store.add(record(), RED)
        store.add(record(index=1), RED)
    (tmp_path / "staging/0000_0.png").unlink()
    with Opened(tmp_path, "webdataset") as store:
        assert not store.has(record())
        store.finish()
    assert members(tmp_path) == ["0000_1"]


def test_half_written_files_are_swept_away_but_for_those_of_other_workers(tmp_path):
    for name in ("images/.0000_0.png.part", "images/.0001_0.png.part", "images/.0002_0.png.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    shard = Shard(1, 2)
    mine = [id for id in ("0000", "0001", "0002") if shard.owns(id, 0)]
    assert 0 < len(mine) < 3
    with Opened(tmp_path, shard=shard):
        assert len(list((tmp_path / "images").iterdir())) == 3 - len(mine)
    with Opened(tmp_path, shard=Shard(2, 2)):
        assert not list((tmp_path / "images").iterdir())


@pytest.mark.parametrize(
    "change,message",
    [
        ({"guidance": 3.0}, r"0000_0\.png was made with guidance 2\.0, not 3\.0; choose another output folder"),
        ({"prompt": "pear"}, "was made with prompt 'a käse 🧀', not 'pear'"),
        ({"top_k": 5}, "was made without top_k, not with 5"),
    ],
)
@pytest.mark.parametrize("torn", [False, True], ids=["with-row", "without-row"])
def test_other_settings_are_refused_and_nothing_is_lost(tmp_path, change, message, torn):
    with Opened(tmp_path) as store:
        store.add(record(), RED)
    if torn:
        (tmp_path / "ledger.sqlite").unlink()
    with Opened(tmp_path) as store, pytest.raises(InputError, match=message):
        store.has(record(**change))
    assert read_record(tmp_path / "images/0000_0.png") == {**record(), "file": "images/0000_0.png"}


@pytest.mark.parametrize("packed", [False, True])
def test_other_settings_are_refused_in_shards(tmp_path, packed):
    with Opened(tmp_path, "webdataset") as store:
        store.add(record(), RED)
        if packed:
            store.finish()
        with pytest.raises(InputError, match=r"(tar|png) was made with seed 3, not 4"):
            store.has(record(seed=4))


def test_another_format_is_refused_where_there_are_pictures(tmp_path):
    Opened(tmp_path, "png").__exit__()
    with Opened(tmp_path, "webdataset") as store:
        store.add(record(), RED)
    for shard in (Shard(), Shard(1, 3)):
        with pytest.raises(InputError, match="holds pictures in the format webdataset, not png"):
            Opened(tmp_path, "png", shard=shard)


def test_strange_files_are_not_overwritten(tmp_path):
    with Opened(tmp_path) as store:
        RED.save(tmp_path / "images/0000_0.png")
        with pytest.raises(InputError, match="is in the way"):
            store.has(record())
    with Opened(tmp_path / "tar", "webdataset") as store:
        store.add(record(), RED)
        store.finish()
    for path in (tmp_path / "tar").glob("ledger*"):
        path.unlink()
    with pytest.raises(InputError, match=r"pictures-000000\.tar is in the way: .* does not know it"):
        Opened(tmp_path / "tar", "webdataset")


@pytest.mark.parametrize("moment", ["in-the-picture", "before-the-rename", "before-the-row"])
@pytest.mark.parametrize("format", ["png", "webdataset"])
def test_killed_at_every_moment_of_a_picture(tmp_path, format, moment):
    change = {
        "in-the-picture": "os.fsync = die",
        "before-the-rename": "os.replace = die",
        "before-the-row": "Ledger.add = die",
    }[moment]
    killed(tmp_path, format, change, first=1, then=1)
    whole = moment == "before-the-row"
    with Opened(tmp_path, format) as store:
        assert store.has(record())
        assert store.has(record(index=1)) == whole
        if not whole:
            store.add(record(index=1), RED)
        store.finish()
    assert lines(tmp_path) == [record(), record(index=1)]
    assert not list(tmp_path.rglob("*.part"))
    if format == "webdataset":
        assert members(tmp_path) == ["0000_0", "0000_1"]


SHARD_MOMENTS = {
    "in-the-shard": "tarfile.TarFile.addfile = pyarrow.parquet.ParquetWriter.write_table = die",
    "before-the-rename": "move = os.replace\nos.replace = lambda a, b: die() if 'shards' in str(b) else move(a, b)",
    "before-the-rows": "Ledger.packed = die",
    "before-the-staged-are-deleted": "Path.unlink = die",
    "while-the-staged-are-deleted": "unlink = Path.unlink\nPath.unlink = lambda p: (unlink(p), die())",
}


@pytest.mark.parametrize("moment", SHARD_MOMENTS)
@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_killed_at_every_moment_of_a_shard(tmp_path, format, moment):
    pytest.importorskip("pyarrow")
    killed(tmp_path, format, SHARD_MOMENTS[moment], first=2, then=1)
    with Opened(tmp_path, format) as store:
        for index in range(5):
            if not store.has(record(index=index)):
                assert index > 2
                store.add(record(index=index), RED)
        store.finish()
    assert sorted(members(tmp_path)) == [f"0000_{k}" for k in range(5)]
    assert lines(tmp_path) == [record(index=k) for k in range(5)]
    assert not list((tmp_path / "staging").iterdir())
    assert not list(tmp_path.rglob("*.part"))


def killed(folder: Path, format: str, change: str, first: int, then: int) -> None:
    """Add `first` pictures in a process of its own, which `change` then lets die while it adds `then` more."""
    code = f"""
import os, signal, tarfile
from pathlib import Path
from PIL import Image
import pyarrow.parquet
from illume_fast.jobs.ledger import Ledger
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.stores import open_store
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
picture = Image.new("RGB", (8, 8), "red")
ledger = Ledger(Path({str(folder)!r}), Shard(), {format!r})
store = open_store(ledger, {format!r}, 3)
for index in range({first}):
    store.add({{**{record()!r}, "index": index}}, picture)
{change}
for index in range({first}, {first + then}):
    store.add({{**{record()!r}, "index": index}}, picture)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_full_disk_leaves_no_half_picture_and_no_row(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with Opened(tmp_path) as store:
        store.add(record(), RED)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device; what was done is kept"):
            store.add(record(index=1), RED)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["0000_0.png"]
    assert lines(tmp_path) == [record()]
