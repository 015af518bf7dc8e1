"""Every size of the published models, drawn and edited by a pipeline with their grids; sources of any size."""

import pytest
import torch
from PIL import Image
from sized_pipeline import SIZES, sized_pipeline

from illume_fast.data.sequence import encode_image
from illume_fast.data.sizes import RATIOS, nearest_size
from illume_fast.model.presets import illume_plus_3b, illume_plus_7b
from illume_fast.pipeline import Ask, Draw
from illume_fast.tasks import picture_plan

# size: semantic and pixel grid, tokens from <start_of_image> to <end_of_image> (ILLUME+'s table of resolutions)
TABLE = {
    (256, 256): ((9, 9), (16, 16), 368),
    (512, 512): ((18, 18), (32, 32), 1404),
    (384, 512): ((12, 16), (24, 32), 1002),
    (512, 384): ((16, 12), (32, 24), 1014),
    (384, 768): ((13, 26), (24, 48), 1533),
    (768, 384): ((26, 13), (48, 24), 1570),
    (384, 576): ((12, 18), (24, 36), 1122),
    (576, 384): ((18, 12), (36, 24), 1140),
    (320, 960): ((11, 33), (20, 60), 1600),
    (960, 320): ((33, 11), (60, 20), 1662),
    (256, 1024): ((9, 36), (16, 64), 1379),
    (1024, 256): ((36, 9), (64, 16), 1454),
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return sized_pipeline(tmp_path_factory.mktemp("sized"))


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def test_every_plan_has_the_published_grid(pipe):
    assert set(TABLE) == set(SIZES)
    for size, (semantic, pixel, tokens) in TABLE.items():
        grid = pipe.tasks.grid(size)
        assert grid.levels == (semantic, pixel)
        plan = picture_plan(pipe.tasks.vocab, grid)
        assert len(plan) == tokens
        assert len(plan.draws) == semantic[0] * semantic[1] + pixel[0] * pixel[1]


def test_published_models_draw_the_eleven_anchors():
    for preset in (illume_plus_3b(), illume_plus_7b()):
        assert preset.generation.sizes == RATIOS
        assert set(RATIOS) == set(TABLE) - {(256, 256)}
        for size in RATIOS:
            assert preset.vision_tokenizer.grids(*size) == TABLE[size][:2]
            assert preset.model.vision_tower.grids(*size) == TABLE[size][:2]


def test_every_size_is_drawn(pipe):
    tasks = [Draw(prompt="a dog", size=size, guidance=1.0, tag=size) for size in SIZES]
    done = {d.task.tag: d for d in pipe.generate_stream(tasks)}
    for size, (semantic, pixel, tokens) in TABLE.items():
        assert done[size].error is None
        assert done[size].picture.size == size[::-1]
        assert [tuple(level.shape) for level in done[size].codes.levels] == [semantic, pixel]
        assert len(encode_image(done[size].codes, pipe.tasks.vocab)) == tokens
    (alone,) = pipe.generate_stream([tasks[4]], decode=False)
    together = done[tasks[4].size].codes.levels
    assert all(torch.equal(a, b) for a, b in zip(alone.codes.levels, together, strict=True))


# height and width of sources: odd, tiny, wide, tall, larger than any size
SOURCES = [(333, 517), (1, 1), (7, 900), (901, 13), (1500, 1100), (512, 512), (383, 129)]


def test_edits_come_back_in_their_source_s_size(pipe):
    tasks = [Draw(prompt="make it green", image=noise(*size), guidance=1.0, samples=(0,), tag=size) for size in SOURCES]
    done = {d.task.tag: d for d in pipe.generate_stream(tasks)}
    for height, width in SOURCES:
        edit = done[height, width]
        assert (edit.picture.height, edit.picture.width) == (height, width)
        assert (edit.codes.height, edit.codes.width) == nearest_size((height, width), SIZES)
    plain = next(pipe.generate_stream([Draw(prompt="x", image=noise(7, 900), guidance=1.0, restore=False)]))
    assert plain.picture.size == (1024, 256)


@pytest.mark.parametrize(
    ("source", "most", "grid"),
    [
        # sides in multiples of 16, no more than 768 x 768 pixels, no less than 32 x 32
        ((333, 517), None, (336, 512)),
        ((1500, 1100), None, (896, 656)),
        ((10, 10), None, (32, 32)),
        ((768, 768), None, (768, 768)),
        ((1500, 1100), 256 * 256, (288, 208)),
    ],
)
def test_pictures_are_understood_in_their_own_size(pipe, source, most, grid):
    assert pipe.tasks.checkpoint.config.model.vision_tower.max_pixels == 768**2
    assert illume_plus_7b().model.vision_tower.max_pixels == 768**2
    task = Ask(prompt="What is this?", images=[noise(*source)], max_new_tokens=1, max_pixels=most)
    (request,) = pipe.tasks.requests(task)
    (read,) = [len(s) for s in request.prompt if s.features is not None]
    levels = pipe.tasks.checkpoint.config.model.vision_tower.grids(*grid)
    assert read == 6 + sum(rows * (columns + 1) for rows, columns in levels)
    (done,) = pipe.generate_stream([task])
    assert done.error is None
