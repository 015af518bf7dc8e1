"""Options of guidance on the command line: what the pipeline draws with them, and what is said when they are wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from illume_fast.pipeline import IllumePipeline

ASKED = {"negative_prompt": "green apple", "guidance_from": 2, "guidance_until": 60}
OPTIONS = ("--negative-prompt", "green apple", "--guidance-from", 2, "--guidance-until", 60, "--guidance", 3)


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return IllumePipeline.from_pretrained(tiny_model)


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def test_generate_draws_what_the_pipeline_draws(cli, pipe, tiny_model, tmp_path):
    shown = cli("generate", "red apple", "--model", tiny_model, "--out", tmp_path, "--seed", 5, *OPTIONS)
    assert shown.code == 0, shown.err
    expected = pipe("red apple", seed=5, guidance_scale=3.0, **ASKED).images[0]
    assert (pixels(tmp_path / "images/red_apple_0.png") == np.asarray(expected)).all()
    unlike = pipe("red apple", seed=5, guidance_scale=3.0).images[0]
    assert (np.asarray(unlike) != np.asarray(expected)).any()


def test_edit_draws_what_the_pipeline_draws(cli, pipe, tiny_model, tmp_path, picture):
    out = tmp_path / "out"
    shown = cli("edit", picture, "blue heart", "--model", tiny_model, "--out", out, *OPTIONS)
    assert shown.code == 0, shown.err
    with Image.open(picture) as source:
        expected = pipe.edit(source, "blue heart", seed=0, guidance_scale=3.0, **ASKED).images[0]
    assert (pixels(out / "images/source_blue_heart_0.png") == np.asarray(expected)).all()


@pytest.mark.slow
def test_rows_win_over_options_with_several_workers_too(cli, tiny_model, tmp_path):
    rows = [{"prompt": f"red apple {i}"} for i in range(6)]
    rows[2] |= {"negative_prompt": "red apple", "guidance": 1.5}
    rows[4] |= {"guidance_from": 0, "guidance_until": 30}
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    common = ("generate", source, "--model", tiny_model, *OPTIONS)
    for name, workers in (("one", ()), ("two", ("--workers", 2))):
        shown = cli(*common, "--out", tmp_path / name, *workers)
        assert shown.code == 0, shown.err
    one, two = (
        {r["id"]: r for r in map(json.loads, (tmp_path / name / "results.jsonl").read_text().splitlines())}
        for name in ("one", "two")
    )
    assert one == two
    said = [one[f"{i:04d}"] for i in (0, 2, 4)]
    assert [r["guidance"] for r in said] == [3.0, 1.5, 3.0]
    assert [r["negative_prompt"] for r in said] == ["green apple", "red apple", "green apple"]
    assert [(r["guidance_from"], r["guidance_until"]) for r in said] == [(2, 60), (2, 60), (None, 30)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--negative-prompt", " "), "--negative-prompt is empty; say what to lead away from, or leave it out"),
        (("--negative-prompt", "a", "--guidance", 1), "--negative-prompt does nothing with --guidance 1; leave one"),
        (("--guidance-from", 9, "--guidance-until", 3), "--guidance-until 3 is before --guidance-from 9"),
        (("--guidance-from", -1), "--guidance-from must be from 0 to 2147483647, got -1"),
        (("--guidance-until", "end"), "--guidance-until"),
    ],
)
def test_wrong_options_touch_nothing(cli, tmp_path, arguments, message):
    shown = cli("generate", "red apple", "--out", tmp_path / "out", *arguments)
    assert shown.code == 2
    assert message in shown.out + shown.err
    assert not (tmp_path / "out").exists()


def test_a_lone_prompt_is_not_called_a_row(cli, tiny_model, tmp_path):
    shown = cli("generate", "red apple", "--model", tiny_model, "--out", tmp_path / "out", "--guidance-from", 5000)
    assert shown.code == 2
    assert shown.err.splitlines()[-1] == "illume-fast: guidance_from 5000: this picture has the steps 0 to 97"
