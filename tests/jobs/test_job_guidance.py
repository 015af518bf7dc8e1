"""Negative prompts and stretches of guidance in jobs: what the pipeline draws with them, from any file."""

import csv
import json
import sqlite3

import pytest
from PIL import Image
from support import on_threads
from tiny_pipeline import tiny_pipeline

from illume_fast import generate_batch
from illume_fast.data.errors import InputError
from illume_fast.data.png import read_record, write_png
from illume_fast.engine import EngineConfig, sample_seed
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.worker import hash_of

ROWS = [
    {"prompt": "a red heart"},
    {"prompt": "a red heart", "negative_prompt": "make the sky green", "num_images": 2},
    {"prompt": "a red heart", "guidance": 5, "guidance_from": 3, "guidance_until": 20},
    {"prompt": "a red heart", "negative_prompt": "the grass", "guidance": 2.5, "guidance_until": 8, "size": "32x64"},
]
LATER = ({"negative_prompt": "a tree"}, {"negative_prompt": "the dog"}, {"guidance_from": 1}, {"guidance_until": 7})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), EngineConfig(max_batch=4, cache_tokens=4096))


def results(folder, name="results.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def tokens(folder):
    return {(row["id"], row["index"]): row["tokens"] for row in results(folder)}


def drawn(pipe, words, index=0, image=None, size=None, **settings):
    """The hash of what the pipeline draws, and the picture."""
    same = {"seed": sample_seed(0, index), "image": image, **settings}
    if size is not None:
        same |= dict(zip(("height", "width"), map(int, size.split("x")), strict=True))
    return hash_of(pipe(words, output_type="codes", **same).images[0]), pipe(words, **same).images[0]


def of_row(row, **job):
    """A row's settings, and the job's where it has none, as the pipeline calls them."""
    asked = {**job, **{key: value for key, value in row.items() if key not in ("prompt", "num_images", "id")}}
    return {("guidance_scale" if key == "guidance" else key): value for key, value in asked.items()}


@pytest.mark.parametrize("job", [{}, {"guidance": 4.0, "negative_prompt": "a small dog", "guidance_until": 30}])
def test_rows_draw_what_the_pipeline_draws_and_win_over_the_job(pipe, tmp_path, job):
    generate_batch(ROWS, tmp_path, pipe, **job)
    found = tokens(tmp_path)
    assert len(found) == 5
    for number, row in enumerate(ROWS):
        for index in range(row.get("num_images", 1)):
            expected, picture = drawn(pipe, row["prompt"], index, **of_row(row, **job))
            path = tmp_path / f"images/{number:04d}_{index}.png"
            assert found[f"{number:04d}", index] == expected, row
            assert Image.open(path).tobytes() == picture.tobytes()
    assert len(set(found.values())) == 5


def test_edits_are_led_away_too(pipe, tmp_path):
    source = Image.new("RGB", (50, 40), (200, 40, 30))
    source.save(tmp_path / "source.png")
    row = {"prompt": "make the sky green", "image": str(tmp_path / "source.png"), "guidance_from": 2}
    generate_batch([row], tmp_path / "out", pipe, negative_prompt="make the grass green", guidance=3.0)
    settings = {"guidance_scale": 3.0, "negative_prompt": "make the grass green", "guidance_from": 2}
    expected, picture = drawn(pipe, row["prompt"], image=source, **settings)
    assert tokens(tmp_path / "out") == {("0000", 0): expected}
    assert Image.open(tmp_path / "out/images/0000_0.png").tobytes() == picture.tobytes()
    plain, _ = drawn(pipe, row["prompt"], image=source, guidance_scale=3.0, guidance_from=2)
    assert plain != expected


def written(folder, name):
    path = folder / name
    keys = list(dict.fromkeys(key for row in ROWS for key in row))
    if name.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif name.endswith(".parquet"):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        # whole numbers with gaps arrive as floats, as from other programs
        columns = {key: [row.get(key) for row in ROWS] for key in keys}
        columns["guidance_until"] = pyarrow.array([None, float("nan"), 20.0, 8.0])
        parquet.write_table(pyarrow.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, keys, delimiter="\t" if name.endswith(".tsv") else ",")
            table.writeheader()
            table.writerows(ROWS)
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.tsv", "p.parquet"])
def test_every_format_of_prompt_files_has_them(pipe, tmp_path, name):
    generate_batch(written(tmp_path, name), tmp_path / "out", pipe)
    records = {row["id"]: row for row in results(tmp_path / "out") if not row["index"]}
    keys = ("guidance", "negative_prompt", "guidance_from", "guidance_until")
    assert [[records[f"{i:04d}"][key] for key in keys] for i in range(4)] == [
        [2.0, None, None, None],
        [2.0, "make the sky green", None, None],
        [5.0, None, 3, 20],
        [2.5, "the grass", None, 8],
    ]
    generate_batch(ROWS, tmp_path / "given", pipe)
    assert tokens(tmp_path / "out") == tokens(tmp_path / "given")


def test_pictures_say_what_they_were_led_away_from(pipe, tmp_path):
    generate_batch(ROWS[:3], tmp_path, pipe)
    with Image.open(tmp_path / "images/0001_0.png") as picture:
        assert picture.text["negative_prompt"] == "make the sky green"
        assert "guidance_until" not in picture.text
    with Image.open(tmp_path / "images/0002_0.png") as picture:
        assert (picture.text["guidance_from"], picture.text["guidance_until"]) == ("3", "20")
        assert "negative_prompt" not in picture.text


@pytest.mark.parametrize("format", ["png", "webdataset"])
def test_a_job_goes_on_with_the_same_settings_only(pipe, tmp_path, format):
    settings = {"negative_prompt": "a tree", "guidance_from": 1, "guidance_until": 9, "format": format}
    generate_batch(["a dog"], tmp_path, pipe, **settings)
    more = generate_batch(["a dog", "a red heart"], tmp_path, pipe, **settings)
    assert (more.drawn, more.kept) == (1, 1)
    for key, other in (("negative_prompt", None), ("guidance_from", 0), ("guidance_until", None)):
        with pytest.raises(InputError, match=f"was made with {key} .*, not without; choose another output folder"):
            generate_batch(["a dog"], tmp_path, pipe, **{**settings, key: other})
    with pytest.raises(InputError, match="was made with negative_prompt 'a tree', not 'grass'"):
        generate_batch([{"prompt": "a dog", "negative_prompt": "grass"}], tmp_path, pipe, **settings)


def test_folders_from_before_there_were_negative_prompts_go_on(pipe, tmp_path):
    generate_batch(["a dog", "a tree"], tmp_path, pipe)
    new = ("negative_prompt", "guidance_from", "guidance_until")
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    with db:
        for number, text in db.execute("SELECT number, record FROM pictures").fetchall():
            record = {key: value for key, value in json.loads(text).items() if key not in new}
            db.execute("UPDATE pictures SET record = ? WHERE number = ?", (json.dumps(record), number))
        # this one's row was lost in a kill: the picture itself says how it was made
        db.execute("DELETE FROM pictures WHERE id = '0001'")
    db.close()
    path = tmp_path / "images/0001_0.png"
    record = {key: value for key, value in read_record(path).items() if key not in new}
    write_png(path, Image.open(path), record)
    assert generate_batch(["a dog", "a tree", "a red heart"], tmp_path, pipe).kept == 2
    for other in LATER:
        with pytest.raises(InputError, match=r"was made without .*, not with"):
            generate_batch(["a dog", "a tree", "a red heart"], tmp_path, pipe, **other)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"negative_prompt": " "}, 'prompt 1: "negative_prompt" is empty; say what to lead away from, or leave it out'),
        ({"negative_prompt": 3}, 'prompt 1: "negative_prompt" must be a text, got 3'),
        ({"negative_prompt": "a\0"}, 'prompt 1: "negative_prompt" has a NUL character'),
        ({"negative_promt": "a"}, "prompt 1: unknown key 'negative_promt'; did you mean 'negative_prompt'?"),
        ({"guidance": "strong"}, "prompt 1: \"guidance\" must be a number from 0 to 100, got 'strong'"),
        ({"guidance": True}, "from 0 to 100, got True"),
        ({"guidance": "nan"}, "from 0 to 100, got 'nan'"),
        ({"guidance": 101}, "from 0 to 100, got 101"),
        ({"guidance_from": -1}, 'prompt 1: "guidance_from" must be a whole number from 0 to 2147483647, got -1'),
        ({"guidance_until": 1.5}, 'prompt 1: "guidance_until" must be a whole number from 0 to 2147483647, got 1.5'),
        ({"guidance_from": 30}, "prompt 1: sampling: guidance_until 25 is before guidance_from 30"),
        ({"guidance_from": 32, "guidance_until": 40}, "prompt 1: guidance_from 32: this picture has the steps 0 to 31"),
        ({"guidance": 1}, "prompt 1: a negative prompt does nothing without guidance; give guidance other than 1"),
        ({"guidance_until": 0}, "prompt 1: a negative prompt does nothing without guidance"),
    ],
)
def test_bad_rows_are_named_with_what_is_allowed(pipe, tmp_path, row, reason):
    given = ["a dog", {"prompt": "a red heart", **row}, "a tree"]
    done = generate_batch(given, tmp_path, pipe, negative_prompt="the grass", guidance_until=25)
    assert (done.drawn, done.failed) == (2, 1)
    (failure,) = results(tmp_path, "failures.jsonl")
    assert reason in failure["reason"]
    assert "\n" not in failure["reason"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"negative_prompt": " "}, "negative_prompt is empty; say what to lead away from, or leave it out"),
        ({"negative_prompt": "\ud800"}, "negative_prompt has a NUL character or half a surrogate pair in it"),
        (
            {"negative_prompt": "a", "guidance": 1},
            "negative_prompt does nothing with guidance 1; leave one of them out",
        ),
        ({"negative_prompt": "a", "guidance_until": 0}, "does nothing with guidance from step 0 until 0; leave one"),
        ({"guidance_from": 5, "guidance_until": 4}, "guidance_until 4 is before guidance_from 5"),
        ({"guidance_from": -1}, "guidance_from must be from 0 to 2147483647, got -1"),
        ({"guidance_until": -1}, "guidance_until must be from 0 to 2147483647, got -1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_done(pipe, tmp_path, settings, reason):
    with pytest.raises(InputError, match=reason):
        generate_batch(["a dog"], tmp_path / "out", pipe, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", LATER)
def test_a_model_that_cannot_be_guided_says_so(tmp_path, asked):
    pipe = tiny_pipeline(tmp_path, EngineConfig(max_batch=2, cache_tokens=2048), has_unconditional=False)
    (option,) = asked
    name = "--" + option.replace("_", "-")
    with pytest.raises(InputError, match=f"{name}: model .* was trained without an unconditional prompt.*leave it out"):
        generate_batch(["a dog"], tmp_path / "out", pipe, **asked)
    done = generate_batch(["a dog", {"prompt": "a tree", **asked}], tmp_path / "out", pipe)
    assert (done.drawn, done.failed) == (1, 1)
    (failure,) = results(tmp_path / "out", "failures.jsonl")
    assert failure["reason"].startswith("prompt 1: this model was trained without an unconditional prompt")


def test_settings_reach_other_processes(tmp_path):
    config = JobConfig(out=tmp_path, negative_prompt="käse 🧀", guidance_from=3, guidance_until=9, guidance=2.0)
    assert JobConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
