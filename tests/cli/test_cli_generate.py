"""`generate` and `edit` with a small random model: what they write, and that a picture depends on its row alone."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from illume_fast.commands.drawing import slug
from illume_fast.data.png import read_record


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("red apple\nblue heart\n\nsmall green apple of unusual length\n")
    return path


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def test_it_writes_pictures_results_and_a_sheet(cli, tiny_model, prompts, tmp_path):
    out = tmp_path / "out"
    shown = cli("generate", prompts, "--model", tiny_model, "--out", out, "--num-images", 2, "--seed", 5)
    assert shown.code == 0, shown.err
    assert "6 pictures in" in shown.out
    assert str(out / "contact_sheet.png") in shown.out
    assert sorted(p.name for p in (out / "images").iterdir()) == [f"000{i}_{k}.png" for i in range(3) for k in range(2)]
    found = {(r["id"], r["index"]): r for r in results(out)}
    assert len(found) == 6
    first = found["0000", 0]
    assert (first["prompt"], first["seed"], first["guidance"], first["size"]) == ("red apple", 5, 2.0, "64x64")
    assert first["file"] == "images/0000_0.png"
    assert found["0000", 1]["seed"] != 5
    assert read_record(out / "images/0000_0.png") == first
    with Image.open(out / "images/0002_1.png") as picture:
        assert picture.size == (64, 64)
        assert picture.text["prompt"] == "small green apple of unusual length"
        assert {"seed", "guidance", "model"} <= set(picture.text)
    assert Image.open(out / "contact_sheet.png").width > 128


def test_nothing_is_drawn_twice_and_more_can_be_asked_for(cli, tiny_model, prompts, tmp_path):
    out = tmp_path / "out"
    common = ("generate", prompts, "--model", tiny_model, "--out", out)
    cli(*common)
    before = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    again = cli(*common)
    assert again.code == 0
    assert "0 pictures in" in again.out
    assert "3 of 3 pictures are already in" in again.err
    with prompts.open("a") as file:
        file.write("one more\n")
    more = cli(*common, "--num-images", 2)
    assert "5 pictures in" in more.out
    after = {p.name: p.stat().st_mtime_ns for p in (out / "images").iterdir()}
    assert len(after) == 8
    assert before.items() <= after.items()
    assert len(results(out)) == 8


@pytest.mark.parametrize(
    "change,message",
    [
        (("--guidance", 3), "was made with guidance 2.0, not 3.0"),
        (("--seed", 1), "was made with seed 0, not 1"),
        (("--size", "32x64"), "was made with size '64x64', not '32x64'"),
        (("--temperature", 0.5), "was made without temperature, not with 0.5"),
    ],
)
def test_other_settings_need_another_folder(cli, tiny_model, prompts, tmp_path, change, message):
    common = ("generate", prompts, "--model", tiny_model, "--out", tmp_path / "out")
    assert cli(*common).code == 0
    shown = cli(*common, *change)
    assert shown.code == 2
    assert message in shown.err
    assert "choose another output folder" in shown.err
    assert len(results(tmp_path / "out")) == 3


def test_another_model_needs_another_folder(cli, tiny_model, save_tiny, prompts, tmp_path):
    common = ("generate", prompts, "--out", tmp_path / "out", "--model")
    assert cli(*common, tiny_model).code == 0
    other = save_tiny(tmp_path / "other", seed=1)
    assert "was made with weights" in cli(*common, other).err


def test_a_picture_does_not_depend_on_its_batch_or_its_place(cli, tiny_model, prompts, tmp_path):
    common = ("--model", tiny_model, "--num-images", 2)
    cli("generate", prompts, *common, "--out", tmp_path / "together")
    cli("generate", prompts, *common, "--out", tmp_path / "apart", "--batch-size", 1)
    for path in (tmp_path / "together/images").iterdir():
        assert (pixels(path) == pixels(tmp_path / "apart/images" / path.name)).all()
    record = read_record(tmp_path / "together/images/0002_1.png")
    cli("generate", record["prompt"], "--model", tiny_model, "--seed", record["seed"], "--out", tmp_path / "alone")
    alone = tmp_path / "alone/images/small_green_apple_of_unusual_length_0.png"
    assert (pixels(alone) == pixels(tmp_path / "together/images/0002_1.png")).all()


def test_different_seeds_prompts_and_guidance_draw_different_pictures(cli, tiny_model, tmp_path):
    drawn = []
    for number, arguments in enumerate([(), ("--seed", 1), ("--guidance", 1), ("--temperature", 0)]):
        cli("generate", "red apple", "--model", tiny_model, "--out", tmp_path / str(number), *arguments)
        drawn.append(pixels(tmp_path / str(number) / "images/red_apple_0.png"))
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])


def test_rows_of_a_jsonl_have_their_own_settings(cli, tiny_model, tmp_path, picture):
    rows = [
        {"prompt": "red apple", "id": "apple", "seed": 7, "size": "32x64", "num_images": 2},
        {"prompt": "change the colour to green", "id": "edit", "image": picture.name},
        {"prompt": "blue heart"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    shown = cli("generate", tmp_path / "p.jsonl", "--model", tiny_model, "--out", out)
    assert shown.code == 0, shown.err
    found = {(r["id"], r["index"]): r for r in results(out)}
    assert set(found) == {("apple", 0), ("apple", 1), ("edit", 0), ("0002", 0)}
    assert found["apple", 0]["seed"] == 7
    assert Image.open(out / "images/apple_1.png").size == (64, 32)
    assert found["edit", 0]["guidance"] == 1.5
    assert found["edit", 0]["image"].endswith("source.png")
    assert found["0002", 0]["guidance"] == 2.0


def test_names_of_lone_prompts_remind_of_them_and_differ():
    assert slug("Woman running: medium-dark skin tone") == "woman_running_medium_dark_skin_tone"
    unlike = [slug(text) for text in ("roter Käse", "roter Köse", "苹果", "梨", "a " * 50 + "b", "a " * 50 + "c", "?")]
    assert len(set(unlike)) == len(unlike)
    assert all(re.fullmatch(r"[a-z0-9_]{1,60}", name) for name in unlike)


def test_edit_of_one_picture(cli, tiny_model, tmp_path, picture):
    out = tmp_path / "out"
    shown = cli("edit", picture, "change the colour to green", "--model", tiny_model, "--out", out, "--num-images", 2)
    assert shown.code == 0, shown.err
    assert {p.name for p in (out / "images").iterdir()} == {
        "source_change_the_colour_to_green_0.png",
        "source_change_the_colour_to_green_1.png",
    }
    assert Image.open(out / "images/source_change_the_colour_to_green_0.png").size == Image.open(picture).size
    # the source stands beside its two edits
    assert Image.open(out / "contact_sheet.png").width > 3 * 128


def test_an_edit_reads_its_picture(cli, tiny_model, tmp_path, picture):
    other = tmp_path / "other.png"
    Image.new("RGB", (60, 40), "green").save(other)
    for source in (picture, other):
        arguments = ("--model", tiny_model, "--temperature", 0, "--out", tmp_path / f"of-{source.stem}")
        assert cli("edit", source, "blue heart", *arguments).code == 0
    first = pixels(tmp_path / "of-source/images/source_blue_heart_0.png")
    assert (first != pixels(tmp_path / "of-other/images/other_blue_heart_0.png")).any()


def test_edits_of_a_file(cli, tiny_model, tmp_path, picture):
    (tmp_path / "e.csv").write_text(f"image,prompt\n{picture.name},remove the tone\n{picture},make it blue\n")
    shown = cli("edit", tmp_path / "e.csv", "--model", tiny_model, "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert [r["prompt"] for r in results(tmp_path / "out")] == ["remove the tone", "make it blue"]


def test_chat_answers_with_and_without_a_picture(cli, tiny_model, picture):
    for arguments in ((), ("--image", picture)):
        shown = cli("chat", "What is this?", "--model", tiny_model, "--max-tokens", 4, *arguments)
        assert shown.code == 0, shown.err
        assert shown.out.endswith("\n")
    assert shown.out == cli("chat", "What is this?", "--model", tiny_model, "--max-tokens", 4, *arguments).out


def test_info_prints_versions_and_backends(cli):
    shown = cli("info")
    assert shown.code == 0
    assert "torch" in shown.out
    assert "cpu" in shown.out


def test_every_row_at_several_sizes(cli, tiny_model, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "red apple"}\n{"prompt": "blue heart", "size": "32x64"}\n')
    for size, out in (("all", tmp_path / "all"), ("32x64,64x64", tmp_path / "list")):
        shown = cli("generate", tmp_path / "p.jsonl", "--model", tiny_model, "--out", out, "--size", size)
        assert shown.code == 0, shown.err
        sizes = {path.name: Image.open(path).size for path in (out / "images").iterdir()}
        assert sizes == {"0000_64x64_0.png": (64, 64), "0000_32x64_0.png": (64, 32), "0001_0.png": (64, 32)}
    again = cli("generate", tmp_path / "p.jsonl", "--model", tiny_model, "--out", tmp_path / "all", "--size", "all")
    assert "3 of 3 pictures are already in" in again.err
    for size, reason in (("64x64,48x48", "--size: size 48x48 is not supported"), ("64x64,big", "--size: size 'big'")):
        refused = cli("generate", "red apple", "--model", tiny_model, "--out", tmp_path / "bad", "--size", size)
        assert (refused.code, reason in refused.err) == (2, True), refused


def test_a_list_may_name_sizes_of_earlier_stages_and_all_leaves_them_out(cli, save_tiny, tmp_path):
    def earlier(config):
        first, *rest = config.generation.sizes
        return replace(config, generation=replace(config.generation, sizes=(first,), extra_sizes=tuple(rest)))

    model = save_tiny(tmp_path / "model", change=earlier)
    for size, names in (("all", {"0000_64x64_0.png"}), ("32x64,64x64", {"0000_64x64_0.png", "0000_32x64_0.png"})):
        (tmp_path / "p.txt").write_text("red apple\n")
        out = tmp_path / size
        shown = cli("generate", tmp_path / "p.txt", "--model", model, "--out", out, "--size", size)
        assert shown.code == 0, shown.err
        assert {path.name for path in (out / "images").iterdir()} == names
