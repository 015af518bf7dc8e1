"""Pictures as plans, and prompts with pictures in them as segments."""

from collections.abc import Sequence

from illume_fast.data.sizes import ImageGrid
from illume_fast.engine import Plan, Segment, Site
from illume_fast.model.image_block import block_slots, slot_of
from illume_fast.model.vocab import IMAGE_PLACEHOLDER, VocabConfig


def picture_plan(vocab: VocabConfig, grid: ImageGrid) -> Plan:
    """The plan of a picture: structure ids are forced, codes of a level draw with the set of its number."""
    sites = {slot_of(level): Site((ids,), level) for level, ids in enumerate(vocab.levels)}
    return Plan.of(sites.get(slot, slot) for slot in block_slots(vocab, grid.levels).tolist())


def segments(ids: Sequence[int], pictures: Sequence[Segment]) -> tuple[Segment, ...]:
    """Ids with placeholders -> segments, each placeholder replaced by the next picture."""
    found: list[Segment] = []
    start = 0
    holes = [i for i, token in enumerate(ids) if token == IMAGE_PLACEHOLDER]
    for hole, picture in zip(holes, pictures, strict=True):
        found += [Segment(tuple(ids[start:hole])), picture]
        start = hole + 1
    return (*found, Segment(tuple(ids[start:])))
