"""Pictures as plans, and prompts with pictures in them as segments."""

from collections.abc import Sequence

from illume_fast.data.sizes import ImageGrid
from illume_fast.engine import Plan, Segment, Site
from illume_fast.model.image_block import PIXEL_SLOT, SEMANTIC_SLOT, block_slots
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig


def picture_plan(vocab: VocabConfig, grid: ImageGrid) -> Plan:
    """The plan of a picture: structure ids are forced, semantic codes draw with set 0 and pixel codes with set 1."""
    sites = {slot: Site((vocab.levels[i],), i) for i, slot in enumerate((SEMANTIC_SLOT, PIXEL_SLOT))}
    return Plan.of(sites.get(slot, slot) for slot in block_slots(vocab, grid.semantic, grid.pixel).tolist())


def segments(ids: Sequence[int], pictures: Sequence[Segment]) -> tuple[Segment, ...]:
    """Ids with placeholders -> segments, each placeholder replaced by the next picture."""
    found: list[Segment] = []
    start = 0
    holes = [i for i, token in enumerate(ids) if token == IMAGE_PLACEHOLDER]
    for hole, picture in zip(holes, pictures, strict=True):
        found += [Segment(tuple(ids[start:hole])), picture]
        start = hole + 1
    return (*found, Segment(tuple(ids[start:])))
