"""The tables of docs/illume_plus.md and docs/demo_model.md, computed again from the presets."""

import re

import pytest
from support import ROOT

from illume_fast.data.sizes import RATIOS, image_grid
from illume_fast.model.checkpoint import build
from illume_fast.model.presets import demo, illume_plus_3b, illume_plus_7b

PAGE = (ROOT / "docs" / "illume_plus.md").read_text(encoding="utf-8")
DEMO_PAGE = (ROOT / "docs" / "demo_model.md").read_text(encoding="utf-8")


def rows(heading: str, page: str = PAGE) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def counted(module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


def spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


@pytest.mark.parametrize("column, preset", [(1, illume_plus_3b), (2, illume_plus_7b)])
def test_sizes_of_parts(column, preset):
    config = preset()
    model, tokenizer = build(config)
    body, head = model.model, model.lm_head
    expected = {
        "decoder layers": counted(body.layers),
        "embedding": counted(body.embed_tokens),
        "head": 0 if head is None else counted(head),
        "vision tower: vision transformer": counted(body.vision_tower.semantic_encoder),
        "vision tower: pixel encoder": counted(body.vision_tower.pixel_encoder),
        "projector": counted(body.mm_projector),
        "language model, all": counted(model),
        "vision tokenizer: pixel decoder": counted(tokenizer.pixel_decoder),
        "vision tokenizer, all": counted(tokenizer),
    }
    found = {cells[0]: cells[column].removesuffix(" (also the head)") for cells in rows("Parts and sizes")}
    assert found == {name: spaced(count) if count else "-" for name, count in expected.items()}
    decoder = config.model.decoder
    per_token = 2 * 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size
    assert f"{spaced(per_token)} " in PAGE.replace("\n", " ")
    assert f"{round(2 * 1404 * per_token / 1e6)}" in PAGE.split("both branches keep them:")[1][:30]
    assert f"{2 * counted(model) / 1e9:.1f}" in PAGE.split("language models need")[1][:30]


def test_picture_sizes():
    tokenizer = illume_plus_3b().vision_tokenizer
    expected = []
    for size in (*RATIOS, (256, 256)):
        grid = image_grid(size, tokenizer)
        cells = ["{} x {}".format(*pair) for pair in (size, *grid.levels)]
        expected.append([*cells, str(grid.num_tokens), str(grid.num_codes)])
    assert rows("Picture sizes") == expected


def test_vocabulary():
    vocab = illume_plus_3b().model.vocab
    ranges = [tuple(map(int, re.findall(r"\d+", cells[0]))) for cells in rows("Vocabulary")]
    tags = len(vocab.tag_pixels)
    expected = [
        (0, vocab.text_size - 1),
        (vocab.structure[0], vocab.structure[-1]),
        *((first, first + tags - 1) for first in (vocab.first_height, vocab.first_width)),
        *((lo, hi - 1) for lo, hi in vocab.levels),
    ]
    assert ranges == expected


def test_the_demo():
    config = demo()
    model, tokenizer = build(config)
    body, decoder = model.model, config.model.decoder
    counts = [
        counted(part)
        for part in (
            *(body.layers, body.embed_tokens, body.vision_tower.semantic_encoder, body.vision_tower.pixel_encoder),
            *(body.mm_projector, model, tokenizer.pixel_decoder, tokenizer),
        )
    ]
    found = rows("Parts and sizes", DEMO_PAGE)[: len(counts)]
    assert [cells[1] for cells in found] == list(map(spaced, counts))
    per_token = 2 * 4 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size
    grid = image_grid((64, 64), config.vision_tokenizer)
    for fact in (f"{spaced(per_token)} bytes a token", f"{grid.num_tokens} tokens, {grid.num_codes} draws"):
        assert fact in DEMO_PAGE
