"""The ledger: its lock, its damage, and work that is divided anew."""

import sqlite3
import subprocess
import sys

import pytest

from illume_fast.data.errors import InputError
from illume_fast.jobs.ledger import Ledger, ledgers
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.summary import Merged


def record(id, index=0, **more):
    return {"id": id, "index": index, "tokens": "ab", **more}


def test_an_entry_says_everything(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(record("Cat"), "done", "images/Cat_0.png")
        ledger.fail("dog", 3, "no such picture")
        entry = ledger.get("cat", 0)
        assert (entry.state, entry.file, entry.tokens, entry.record) == (
            "done",
            "images/Cat_0.png",
            "ab",
            record("Cat"),
        )
        assert (ledger.get("dog", 3).state, ledger.get("dog", 3).reason) == ("failed", "no such picture")
        assert ledger.get("dog", 0) is None


def test_it_is_written_ahead(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(record("cat"), "done", "x")
        reader = sqlite3.connect(tmp_path / "ledger.sqlite")
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        # somebody who looks at the file while the job runs sees what is done
        assert reader.execute("SELECT id, state FROM pictures").fetchall() == [("cat", "done")]
        reader.close()


def test_failures_of_earlier_attempts_go_when_a_job_ends(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.fail("cat", 0, "why")
        ledger.finish()
        assert ledger.get("cat", 0) is not None
    with Ledger(tmp_path) as ledger:
        ledger.fail("dog", 0, "why")
        assert ledger.get("cat", 0) is not None
        ledger.finish()
        assert ledger.get("cat", 0) is None
        assert ledger.get("dog", 0) is not None


def test_two_runs_cannot_share_a_folder_and_the_lock_dies_with_its_process(tmp_path):
    with Ledger(tmp_path), pytest.raises(InputError, match="in use by another run"):
        Ledger(tmp_path)
    code = "import sys; from pathlib import Path; from illume_fast.jobs.ledger import Ledger;"
    code += f"ledger = Ledger(Path({str(tmp_path)!r})); print('locked', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match="in use by another run"):
        Ledger(tmp_path)
    with pytest.raises(InputError, match="in use by another run, which divides the work as ledger says"):
        Ledger(tmp_path, Shard(1, 2))
    with Merged(tmp_path, 1) as merged:
        assert merged is None
    process.kill()
    process.communicate()
    Ledger(tmp_path).close()


def test_parts_of_one_job_run_side_by_side(tmp_path):
    with Ledger(tmp_path, Shard(1, 2)), Ledger(tmp_path, Shard(2, 2)):
        assert [shard for _, shard in ledgers(tmp_path)] == [Shard(1, 2), Shard(2, 2)]


def test_work_that_is_divided_anew_is_known_to_its_new_owners(tmp_path):
    names = [f"{i:03d}" for i in range(50)]
    with Ledger(tmp_path) as ledger:
        for name in names[:40]:
            ledger.add(record(name), "done", f"images/{name}_0.png")
        ledger.fail(names[40], 0, "an old trouble")
    shards = Shard().split(3)
    for shard in shards:
        with Ledger(tmp_path, shard) as ledger:
            known = {name for name in names if ledger.get(name, 0) is not None}
            assert known == {name for name in names[:40] if shard.owns(name, 0)}
            for name in names[40:]:
                if shard.owns(name, 0):
                    ledger.add(record(name), "done", f"images/{name}_0.png")
    with Merged(tmp_path, 3) as merged:
        assert [(entry.id, entry.state) for entry in merged.entries()] == [(name, "done") for name in names]
    with Ledger(tmp_path) as ledger:
        assert all(ledger.get(name, 0).state == "done" for name in names)


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(InputError, match=r"ledger\.sqlite is damaged \(file is not a database\)"):
        Ledger(tmp_path)


def test_a_ledger_of_another_version_is_refused(tmp_path):
    Ledger(tmp_path).close()
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(InputError, match="written by another version \\(schema 99, here 1\\)"):
        Ledger(tmp_path)


def test_a_folder_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output folder .*file/out cannot be written: Not a directory"):
        Ledger(tmp_path / "file/out")
