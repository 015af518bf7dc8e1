"""What the tasks of this folder need: rows of `emoji.csv`, their pictures, and names to choose from.

lmms-eval is started in the folder that holds `emoji.csv` and `images/`.
"""

import random
from collections import defaultdict
from pathlib import Path

from PIL import Image

QUESTION = "What is in the picture?"
SPLIT = "val_combo"
CHOICES = 4


def rows(dataset):
    """The rows of the split that is scored."""
    return dataset.filter(lambda row: row["split"] == SPLIT)


def rows_with_choices(dataset):
    """The same with `choices`, the name among others of its group, and `answer`, its place among them."""
    kept = rows(dataset)
    names = defaultdict(list)
    for row in kept:
        names[row["group"]].append(row["name"])
    enough = kept.filter(lambda row: len(names[row["group"]]) >= CHOICES)
    return enough.map(lambda row: _choices(row, names[row["group"]]))


def _choices(row, names):
    chance = random.Random(row["id"])
    choices = [row["name"], *chance.sample([name for name in names if name != row["name"]], CHOICES - 1)]
    chance.shuffle(choices)
    return {"choices": choices, "answer": choices.index(row["name"])}


def picture(row):
    """The row's picture; what is transparent in it is shown white by the model."""
    with Image.open(Path("images") / f"{row['id']}.png") as opened:
        return [opened.convert("RGBA")]


def question(row):
    """The question that the model was trained with."""
    return QUESTION


def name(row):
    """The answer."""
    return row["name"]
