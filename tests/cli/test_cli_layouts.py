"""`generate --layout`: the folders that scorers of benchmarks read, checked as those scorers read them."""

import json
import re
import signal

import numpy as np
import pytest
from job_files import tokens, wait_for
from PIL import Image

ROWS = [
    {"tag": "single_object", "include": [{"class": "apple", "count": 1}], "prompt": "a photo of an apple"},
    {"tag": "counting", "include": [{"class": "heart", "count": 2}], "prompt": "two hearts"},
    {"tag": "colors", "include": [{"class": "heart", "count": 1, "color": "blue"}], "prompt": "blue heart"},
]


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "dpg.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"item{i}", "prompt": row["prompt"]}) + "\n" for i, row in enumerate(ROWS))
    )
    return path


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def geneval_reads(folder):
    """What GenEval's evaluate_images.py finds in a folder: metadata and pictures of each prompt."""
    found = []
    for sub in sorted(folder.iterdir()):
        if sub.is_dir() and sub.name.isdigit():
            samples = sorted(p for p in (sub / "samples").iterdir() if re.match(r"\d+\.png", p.name))
            found.append((json.loads((sub / "metadata.jsonl").read_text()), samples))
    return found


def test_geneval(cli, tiny_model, metadata, tmp_path):
    out = tmp_path / "out"
    shown = cli("generate", metadata, "--model", tiny_model, "--out", out, "--layout", "geneval")
    assert shown.code == 0, shown.err
    assert f"{out / 'geneval'}: 3 of 3 prompts as the scorer of geneval reads them" in shown.out
    found = geneval_reads(out / "geneval")
    assert [row for row, _ in found] == ROWS
    assert [[p.name for p in samples] for _, samples in found] == [[f"{k:05d}.png" for k in range(4)]] * 3
    for number, (_, samples) in enumerate(found):
        for k, path in enumerate(samples):
            assert path.samefile(out / "images" / f"{number:05d}_{k}.png")
    assert len({pixels(path).tobytes() for _, samples in found for path in samples}) == 12


def test_geneval_with_fewer_pictures_than_before(cli, tiny_model, metadata, tmp_path):
    out = tmp_path / "out"
    call = ("generate", metadata, "--model", tiny_model, "--out", out, "--layout", "geneval", "--num-images")
    assert cli(*call, 2).code == 0
    assert cli(*call, 1).code == 0
    found = geneval_reads(out / "geneval")
    assert [[path.name for path in samples] for _, samples in found] == [["00000.png"]] * 3
    assert (out / "images" / "00000_1.png").exists()


def test_dpg(cli, tiny_model, items, tmp_path):
    out = tmp_path / "out"
    call = ("generate", items, "--model", tiny_model, "--out", out, "--layout", "dpg")
    shown = cli(*call)
    assert shown.code == 0, shown.err
    # the scorer takes every file in the folder for a picture of the item that it is named after
    assert sorted(path.name for path in (out / "dpg").iterdir()) == ["item0.png", "item1.png", "item2.png"]
    grid = pixels(out / "dpg" / "item1.png")
    assert grid.shape == (128, 128, 3)
    for k, (top, left) in enumerate([(0, 0), (0, 64), (64, 0), (64, 64)]):
        assert (grid[top : top + 64, left : left + 64] == pixels(out / "images" / f"item1_{k}.png")).all()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "dpg").iterdir()}
    (out / "dpg" / "item2.png").write_bytes(b"half a picture")
    (out / "images" / "item0_3.png").unlink()
    assert cli(*call).code == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "dpg").iterdir()}
    # a deleted picture is drawn as it was, so its grid is still right
    assert {name for name in before if before[name] != after[name]} == {"item2.png"}
    assert pixels(out / "dpg" / "item2.png").shape == (128, 128, 3)


def test_dpg_with_one_picture(cli, tiny_model, items, tmp_path):
    out = tmp_path / "out"
    assert cli("generate", items, "--model", tiny_model, "--out", out, "--layout", "dpg", "--num-images", 1).code == 0
    assert (pixels(out / "dpg" / "item0.png") == pixels(out / "images" / "item0_0.png")).all()
    assert cli("generate", items, "--model", tiny_model, "--out", out, "--layout", "dpg").code == 0
    assert pixels(out / "dpg" / "item0.png").shape == (128, 128, 3)


def test_genai(cli, tiny_model, tmp_path):
    source, out = tmp_path / "genai_image.json", tmp_path / "out"
    source.write_text(json.dumps({"00000": {"prompt": "red apple"}, "00001": {"prompt": "blue heart"}}))
    call = ("generate", source, "--model", tiny_model, "--out", out, "--layout", "genai")
    assert cli(*call).code == 0
    folder = out / "genai" / tiny_model.name
    assert sorted(path.name for path in folder.iterdir()) == ["00000.jpeg", "00001.jpeg"]
    with Image.open(folder / "00001.jpeg") as picture:
        assert picture.format == "JPEG"
    off = np.abs(pixels(folder / "00001.jpeg").astype(int) - pixels(out / "images" / "00001_0.png")).mean()
    assert off < 6
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert cli(*call).code == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_rows_that_failed_are_left_out_and_told(cli, tiny_model, metadata, tmp_path):
    with metadata.open("a") as file:
        file.write(json.dumps({**ROWS[0], "prompt": "word " * 5000}) + "\n")
    out = tmp_path / "out"
    shown = cli("generate", metadata, "--model", tiny_model, "--out", out, "--layout", "geneval", "--num-images", 1)
    assert shown.code == 1
    assert "3 of 4 prompts" in shown.out
    assert len(geneval_reads(out / "geneval")) == 3


@pytest.mark.parametrize(
    "layout,options,message",
    [
        ("geneval", ("--format", "webdataset"), "--layout geneval needs --format png, got webdataset"),
        ("geneval", ("--num-images", 0), "--num-images must be from 1"),
        ("geneval", ("--size", "all"), "--layout geneval needs one size, got --size all"),
        ("dpg", ("--size", "32x64,64x64"), "--layout dpg needs one size, got --size 32x64,64x64"),
        ("dpg", ("--num-images", 3), "--layout dpg needs --num-images 1 or 4, got 3"),
        ("dpg", ("--size", "32x64"), "--size: DPG-Bench's grids are of square pictures, got 32x64"),
        ("genai", ("--num-images", 2), "--layout genai needs --num-images 1, got 2"),
    ],
)
def test_what_a_scorer_could_not_read_is_refused(cli, tiny_model, metadata, items, tmp_path, layout, options, message):
    source = {"geneval": metadata, "dpg": items, "genai": tmp_path / "g.json"}[layout]
    (tmp_path / "g.json").write_text('{"0": "x"}')
    shown = cli("generate", source, "--model", tiny_model, "--out", tmp_path / "out", "--layout", layout, *options)
    assert shown.code == 2
    assert message in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_job_goes_on_to_the_same_folder(cli, spawn, tiny_model, tmp_path):
    source = tmp_path / "m.jsonl"
    source.write_text("".join(json.dumps({**ROWS[0], "prompt": f"red apple {i}"}) + "\n" for i in range(40)))
    call = ("generate", source, "--model", tiny_model, "--layout", "geneval", "--num-images", 2, "--batch-size", 2)
    killed = spawn(*call, "--out", tmp_path / "killed")
    wait_for(killed, tmp_path / "killed", 3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "geneval").exists()
    for name in ("killed", "whole"):
        assert cli(*call, "--out", tmp_path / name).code == 0
    assert tokens(tmp_path / "killed") == tokens(tmp_path / "whole")
    found, expected = (geneval_reads(tmp_path / name / "geneval") for name in ("killed", "whole"))
    assert [row for row, _ in found] == [row for row, _ in expected]
    assert [[pixels(p).tobytes() for p in s] for _, s in found] == [
        [pixels(p).tobytes() for p in s] for _, s in expected
    ]
