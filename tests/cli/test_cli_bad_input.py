"""What cannot be used gets one line that names it and what is allowed, exit code 2, and loses nothing done."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WEIGHT = "model.layers.0.mlp.up_proj.weight"


def refused(shown, *parts):
    """The run ended with 2 and one line on stderr that holds every part."""
    assert shown.code == 2, shown
    line = shown.err.splitlines()[-1]
    assert line.startswith("illume-fast: ")
    assert "Traceback" not in shown.err
    for part in parts:
        assert part in line
    return line


@pytest.fixture
def generate(cli, tiny_model, tmp_path):
    def run(source, *arguments, model=tiny_model, out=tmp_path / "out"):
        return cli("generate", source, "--model", model, "--out", out, *arguments)

    return run


@pytest.mark.parametrize(
    "name,content,parts",
    [
        ("gone.txt", None, ["prompt file", "gone.txt", "does not exist"]),
        ("empty.txt", "\n \n", ["empty.txt", "has no prompts"]),
        ("p.doc", "red apple", ["unknown format '.doc'", ".txt, .jsonl, .csv, .tsv, .parquet"]),
        ("p.csv", "words\nred apple", ["p.csv", "no column 'prompt'", "words"]),
    ],
)
def test_prompt_files(generate, tmp_path, name, content, parts):
    if content is not None:
        (tmp_path / name).write_text(content)
    refused(generate(tmp_path / name), *parts)
    assert not list((tmp_path / "out").glob("images/*"))


@pytest.mark.parametrize(
    "row,parts",
    [
        ('{"prompt": ', ["p.jsonl line 2", "not JSON"]),
        ('{"prompt": "a", "sed": 1}', ["p.jsonl line 2", "unknown key 'sed'; did you mean 'seed'?"]),
        ('{"prompt": "a", "size": "48x48"}', ["p.jsonl line 2", "size 48x48", "64x64, 32x64"]),
        ('{"prompt": "a", "image": "gone.png"}', ["p.jsonl line 2", "gone.png", "does not exist"]),
        (json.dumps({"prompt": "blue heart " * 500}), ["0001_0", "the model takes 1024"]),
    ],
)
def test_a_bad_row_fails_alone_and_is_tried_again(generate, tmp_path, row, parts):
    source, out = tmp_path / "p.jsonl", tmp_path / "out"
    source.write_text('{"prompt": "red apple"}\n' + row + '\n{"prompt": "blue heart"}\n')
    shown = generate(source)
    assert shown.code == 1, shown
    assert f"1 picture failed; {out / 'failures.jsonl'} says why" in shown.err.splitlines()[-1]
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert all(part in failure["reason"] for part in parts)
    assert {p.name for p in (out / "images").iterdir()} == {"0000_0.png", "0002_0.png"}
    refused(generate(source, "--strict"), *parts)
    # mended, it is drawn, and nothing is left of the failure
    source.write_text('{"prompt": "red apple"}\n{"prompt": "green apple"}\n{"prompt": "blue heart"}\n')
    after = generate(source)
    assert (after.code, "1 picture in" in after.out) == (0, True), after
    assert not (out / "failures.jsonl").exists()
    assert len((out / "results.jsonl").read_text().splitlines()) == 3


def test_an_empty_prompt_and_an_unknown_size(generate):
    refused(generate("  "), "prompt is empty")
    refused(generate("red apple", "--size", "48x64"), "--size", "48x64", "allowed are 64x64, 32x64")


@pytest.mark.parametrize("share,reason", [(0, "not a picture"), (0.5, "cannot be read")])
def test_truncated_pictures(cli, tiny_model, tmp_path, picture, share, reason):
    data = picture.read_bytes()
    picture.write_bytes(data[: int(len(data) * share)])
    arguments = ("--model", tiny_model)
    refused(cli("edit", picture, "make it red", "--out", tmp_path / "out", *arguments), "source.png", reason)
    refused(cli("chat", "what?", "--image", picture, *arguments), "source.png", reason)


def test_a_decompression_bomb_is_refused_by_its_header(cli, tiny_model, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (14_000, 14_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    shown = cli("edit", bomb, "make it red", "--model", tiny_model, "--out", tmp_path / "out")
    refused(shown, "illume-fast: picture", "bomb.png", "more than 64,000,000 pixels, which is the most allowed")


def test_an_edit_needs_a_picture_and_an_instruction(cli, tmp_path, picture):
    refused(cli("edit", picture, "--out", tmp_path / "out"), "needs an instruction")
    refused(cli("edit", picture, "  ", "--out", tmp_path / "out"), "the instruction is empty")
    (tmp_path / "e.jsonl").write_text('{"prompt": "make it red"}\n')
    refused(cli("edit", tmp_path / "e.jsonl", "--strict", "--out", tmp_path / "out"), "line 1", 'needs an "image"')
    refused(cli("edit", tmp_path / "e.jsonl", "make it red", "--out", tmp_path / "out"), "has its own instructions")


def rewritten(change):
    """Damage a model's first weight file by changing its tensors."""

    def damage(folder):
        (path,) = folder.glob("model*.safetensors")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata=metadata)

    return damage


def truncated(folder):
    (path,) = folder.glob("model*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def edited_config(change):
    def damage(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    "damage,parts",
    [
        (rewritten(lambda t: t.pop(WEIGHT)), [WEIGHT, "missing"]),
        (rewritten(lambda t: t.update(extra=torch.zeros(1))), ["extra"]),
        (rewritten(lambda t: t.update({WEIGHT: t[WEIGHT][:-1].clone()})), [WEIGHT, "[47, 32]", "[48, 32]"]),
        (rewritten(lambda t: t[WEIGHT].view(-1).__setitem__(3, float("nan"))), [WEIGHT, "NaN"]),
        (truncated, ["model", "safetensors"]),
        (lambda folder: next(folder.glob("vision_tokenizer*")).unlink(), ["vision_tokenizer"]),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), ["tokenizer.json"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json"]),
        (edited_config(lambda v: v.update(colour=1)), ["config.json", "colour"]),
        (edited_config(lambda v: v["model"].pop("decoder")), ["config.json", "decoder"]),
    ],
    ids=["missing", "extra", "misshapen", "nan", "truncated", "no-vision", "tokenizer", "json", "key", "no-key"],
)
def test_damaged_models(generate, own_model, damage, parts):
    damage(own_model)
    line = refused(generate("red apple", model=own_model), *parts)
    assert len(line) < 1000


def test_a_folder_that_is_no_model(generate, tmp_path):
    refused(generate("red apple", model=tmp_path), "config.json", "give 'demo' or a folder")
    refused(generate("red apple", model="big-model"), "'big-model'")


def test_guidance_without_an_unconditional_prompt(generate, save_tiny, tmp_path):
    def forgot(config):
        return replace(config, generation=replace(config.generation, has_unconditional=False))

    model = save_tiny(tmp_path / "other", change=forgot)
    refused(generate("red apple", "--guidance", 2, model=model), "guidance 2", "unconditional prompt", "allowed is 1")
    assert generate("red apple", "--guidance", 1, model=model).code == 0
    assert generate("blue heart", model=model).code == 0


def test_unknown_backends_by_option_and_by_environment(generate, monkeypatch):
    refused(generate("red apple", "--backend", "tpu"), "unknown backend 'tpu'", "reference", "cpu")
    monkeypatch.setenv("ILLUME_FAST_BACKEND", "abacus")
    refused(generate("red apple"), "unknown backend 'abacus'", "reference", "cpu")


def test_a_backend_draws_the_same_picture(generate, tmp_path):
    for backend in ("reference", "cpu"):
        out = tmp_path / backend
        shown = generate("red apple", "--backend", backend, "--temperature", 0, out=out)
        if backend == "cpu" and shown.code == 2:
            pytest.skip(shown.err)
        assert shown.code == 0, shown.err
    first, second = (np.asarray(Image.open(tmp_path / b / "images/red_apple_0.png")) for b in ("reference", "cpu"))
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


@pytest.mark.parametrize("place", ["file/out", "out"])
def test_an_output_folder_that_cannot_be_one(generate, tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "out").write_text("")
    refused(generate("red apple", out=tmp_path / place), f"output folder {tmp_path / place} cannot be written")


def test_evaluation_data(cli, tiny_model, tmp_path):
    common = ("evaluate", "emoji", "--model", tiny_model)
    refused(cli(*common, "--data", tmp_path / "gone"), "gone/emoji.csv", "cannot be read")
    (tmp_path / "emoji.csv").write_text("id,name\n1,red apple\n")
    refused(cli(*common, "--data", tmp_path), "emoji.csv", "missing columns group, subgroup, base, tone, split")
    refused(cli(*common, "--data", tmp_path, "--limit", 0), "--limit must be from 1")
    refused(cli(*common, "--data", tmp_path, "--json", tmp_path / "no/x.json"), "no/x.json", "does not exist")
    refused(cli(*common, "--data", tmp_path, "--json", tmp_path), f"--json {tmp_path} cannot be written")
    refused(cli(*common, "--data", tmp_path, "--pictures", tmp_path / "emoji.csv"), "emoji.csv is a file")
