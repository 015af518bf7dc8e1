"""The ledger: what a killed run left behind is finished, and nothing is made twice."""

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record, write_png
from illume_fast.data.results import Ledger

RED = Image.new("RGB", (8, 8), "red")


def record(id="0000", index=0, **more):
    return {"id": id, "index": index, "prompt": "a käse 🧀", "seed": 3, "guidance": 2.0, "min_p": None, **more}


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_is_added_is_there_and_there_again_after_reopening(tmp_path):
    with Ledger(tmp_path / "a/b") as ledger:
        assert not ledger.has(record())
        path = ledger.add(record(), RED)
        assert ledger.has(record())
    assert path == tmp_path / "a/b/images/0000_0.png"
    with Ledger(tmp_path / "a/b") as ledger:
        assert ledger.has(record())
        assert not ledger.has(record(index=1))
    assert lines(tmp_path / "a/b") == [record()]


def test_the_picture_carries_its_record(tmp_path):
    write_png(tmp_path / "x.png", RED, record())
    assert read_record(tmp_path / "x.png") == record()
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text["prompt"] == "a käse 🧀"
        assert picture.text["seed"] == "3"
        assert "min_p" not in picture.text


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_mended_and_its_picture_taken_over(tmp_path, cut):
    with Ledger(tmp_path) as ledger:
        ledger.add(record(), RED)
        ledger.add(record(index=1), RED)
    data = (tmp_path / "results.jsonl").read_bytes()
    (tmp_path / "results.jsonl").write_bytes(data[:-cut])
    with Ledger(tmp_path) as ledger:
        assert ledger.has(record())
        assert ledger.has(record(index=1))
    assert lines(tmp_path) == [record(), record(index=1)]


def test_a_picture_without_a_line_is_taken_over(tmp_path):
    with Ledger(tmp_path) as ledger:
        write_png(ledger.picture_path(record()), RED, record(seconds=1))
        assert ledger.has(record())
    assert lines(tmp_path) == [record(seconds=1)]


def test_a_line_without_a_picture_is_made_again(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.add(record(), RED).unlink()
        assert not ledger.has(record())


def test_half_written_pictures_are_swept_away(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/.0000_0.png.part").write_bytes(b"half")
    Ledger(tmp_path).close()
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.parametrize(
    "change,message",
    [
        ({"guidance": 3.0}, r"0000_0\.png was made with guidance 2\.0, not 3\.0; choose another output folder"),
        ({"prompt": "pear"}, "was made with prompt 'a käse 🧀', not 'pear'"),
        ({"top_k": 5}, "was made with top_k None, not 5"),
    ],
)
@pytest.mark.parametrize("torn", [False, True], ids=["with-line", "without-line"])
def test_other_settings_are_refused_and_nothing_is_lost(tmp_path, change, message, torn):
    with Ledger(tmp_path) as ledger:
        ledger.add(record(), RED)
    if torn:
        (tmp_path / "results.jsonl").write_bytes(b"")
    with Ledger(tmp_path) as ledger, pytest.raises(InputError, match=message):
        ledger.has(record(**change))
    assert read_record(tmp_path / "images/0000_0.png") == record()


def test_a_strangers_file_is_not_overwritten(tmp_path):
    with Ledger(tmp_path) as ledger:
        RED.save(ledger.picture_path(record()))
        with pytest.raises(InputError, match="is in the way"):
            ledger.has(record())


@pytest.mark.parametrize("line", ["oops", "[]", '{"id": "x"}', "5", '"text"'])
def test_a_damaged_ledger_names_its_line(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(json.dumps(record()) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"results\.jsonl line 2 is not a record"):
        Ledger(tmp_path)
    Ledger(tmp_path / "other").close()


def test_two_runs_cannot_share_a_folder_and_the_lock_dies_with_its_process(tmp_path):
    with Ledger(tmp_path), pytest.raises(InputError, match="in use by another run"):
        Ledger(tmp_path)
    code = "import sys, os; from pathlib import Path; from illume_fast.data.results import Ledger;"
    code += f"ledger = Ledger(Path({str(tmp_path)!r})); print('locked', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match="in use by another run"):
        Ledger(tmp_path)
    process.kill()
    process.communicate()
    Ledger(tmp_path).close()


def test_a_folder_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output folder .*file/out cannot be written: Not a directory"):
        Ledger(tmp_path / "file/out")


def test_a_failed_write_leaves_no_half_picture_and_no_half_line(tmp_path, monkeypatch):
    with Ledger(tmp_path) as ledger:
        ledger.add(record(), RED)

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(InputError, match="No space left on device; what was done is kept"):
            ledger.add(record(index=1), RED)
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["0000_0.png"]
    assert lines(tmp_path) == [record()]


DIE = "lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)"
MOMENTS = {
    # where the process dies, and whether the second picture is whole by then
    "in-the-picture": ("Image.Image.save = lambda self, path, **rest: (path.write_bytes(b'half'), die())", False),
    "before-the-rename": ("os.replace = die", False),
    "before-the-line": ("Ledger._append = die", True),
    "in-the-line": (
        "add = Ledger._append\n"
        'def _append(self, record): os.write(self._file.fileno(), b\'{"id": "0000", "ind\'); die()\n'
        "Ledger._append = _append",
        True,
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_moment_of_a_picture(tmp_path, moment):
    change, whole = MOMENTS[moment]
    code = f"""
import os, signal
from pathlib import Path
from PIL import Image
from illume_fast.data.results import Ledger
die = {DIE}
picture = Image.new("RGB", (8, 8), "red")
ledger = Ledger(Path({str(tmp_path)!r}))
ledger.add({record()!r}, picture)
{change}
ledger.add({record(index=1)!r}, picture)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Ledger(tmp_path) as ledger:
        assert ledger.has(record())
        assert ledger.has(record(index=1)) == whole
        if not whole:
            ledger.add(record(index=1), RED)
    assert lines(tmp_path) == [record(), record(index=1)]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["0000_0.png", "0000_1.png"]
