"""python examples/gallery.py OUT [MODEL]: three sheets of what a model draws, edits and names.

All pictures on them are the model's own: it edits and names what it has drawn. None was picked.
"""

import sys
from pathlib import Path

from illume_fast.data.sheet import contact_sheet
from illume_fast.pipeline import IllumePipeline

SEEDS = 2
EDITS = [
    ("red apple", "change the colour to green"),
    ("red heart", "change the colour to blue"),
    ("red heart", "change the colour to yellow"),
    ("blue heart", "change the colour to black"),
    ("green book", "change the colour to orange"),
    ("red circle", "change the colour to purple"),
    ("waving hand: medium-dark skin tone", "change the skin tone to light"),
    ("thumbs up: light skin tone", "change the skin tone to dark"),
    ("raised fist: medium skin tone", "remove the skin tone"),
    ("woman running: medium skin tone", "change the woman to a man"),
    ("woman running: medium skin tone", "change the skin tone to dark"),
    ("man astronaut: dark skin tone", "change the man to a woman"),
    ("man astronaut: dark skin tone", "remove the skin tone"),
    ("person in lotus position: medium-light skin tone", "change the person to a woman"),
    ("woman farmer: light skin tone", "change the skin tone to medium-dark"),
    ("man cook: dark skin tone", "change the man to a woman"),
]
NAMED = 16


def main(out: Path, model: str = "demo") -> None:
    """Write drawn.png, edited.png and named.png into the folder `out`."""
    pipe = IllumePipeline.from_pretrained(model)
    prompts = (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").split("\n")
    prompts = [prompt for prompt in prompts if prompt.strip()]

    drawn = pipe(prompts, num_images_per_prompt=SEEDS, seed=0).images
    captions = [prompt for prompt in prompts for _ in range(SEEDS)]
    sources = pipe([name for name, _ in EDITS], seed=0).images
    edited = pipe([instruction for _, instruction in EDITS], sources, seed=0).images
    named = drawn[:: len(drawn) // NAMED]
    names = [pipe.chat("What is in the picture?", picture) for picture in named]

    out.mkdir(parents=True, exist_ok=True)
    tiles = {
        "drawn": [(caption, [picture]) for caption, picture in zip(captions, drawn, strict=True)],
        "edited": [(edit[1], list(pair)) for edit, pair in zip(EDITS, zip(sources, edited, strict=True), strict=True)],
        "named": [(name, [picture]) for name, picture in zip(names, named, strict=True)],
    }
    for name, shown in tiles.items():
        contact_sheet(shown, picture_height=64).save(out / f"{name}.png", optimize=True)
        print(out / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
