"""A small picture set in the layout of Noto Emoji: coloured shapes, so that every stage has something to learn."""

import csv

import pytest
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("disc", "box", "bar")


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    rows, edits = [], []
    for s, shape in enumerate(SHAPES):
        for c, colour in enumerate(COLOURS):
            draw_shape(shape, colour).save(folder / "images" / f"{s}{c}.png")
            split = "val_combo" if (s, c) == (2, 3) else "val" if (s, c) == (1, 2) else "train"
            rows.append([f"{s}{c}", f"{colour} {shape}", "Shapes", "plain", shape, "", split])
            other = (c + 1) % len(COLOURS)
            edits.append([f"{s}{c}", f"{s}{other}", f"change the colour to {COLOURS[other]}", "colour", split])
    write_csv(folder / "emoji.csv", ["id", "name", "group", "subgroup", "base", "tone", "split"], rows)
    write_csv(folder / "edits.csv", ["source", "target", "instruction", "kind", "split"], edits)
    return folder


def draw_shape(shape: str, colour: str) -> Image.Image:
    picture = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(picture)
    if shape == "disc":
        draw.ellipse((24, 24, 104, 104), fill=colour)
    else:
        draw.rectangle((24, 24, 104, 104) if shape == "box" else (8, 52, 120, 76), fill=colour)
    return picture


def write_csv(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
