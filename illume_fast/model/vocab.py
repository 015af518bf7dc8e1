"""Where text, structure, size and image-code tokens lie among the embedding rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from illume_fast.model.strict import Config, ConfigError

STRUCTURE_TOKENS = (
    "<start_of_image>",
    "<end_of_image>",
    "<end_of_line>",
    "<start_of_level0>",
    "<end_of_level0>",
    "<start_of_level1>",
    "<end_of_level1>",
)
IMAGE_PLACEHOLDER = -200
"""Stands in a prompt's ids where a picture is read as continuous features."""
IGNORE_INDEX = -100
"""Label of a position that is not learnt."""
_TAG_PIXELS = tuple(range(64, 1025, 64))


@dataclass(frozen=True)
class VocabConfig(Config):
    """Where each kind of token lies among the embedding rows.

    `structure` holds the ids of `STRUCTURE_TOKENS` in that order; `<height_P>` for the i-th value P of `tag_pixels`
    is `first_height + i`, likewise the width; `levels` holds a half-open id range of codes per level. `rows` counts
    the embedding rows, of which those at and after `size` belong to no token.
    """

    rows: int
    text_size: int
    pad: int
    im_start: int
    im_end: int
    structure: tuple[int, int, int, int, int, int, int]
    tag_pixels: tuple[int, ...]
    first_height: int
    first_width: int
    levels: tuple[tuple[int, int], tuple[int, int]]

    def __post_init__(self) -> None:
        tags = len(self.tag_pixels)
        singles = [(self.pad,) * 2, (self.im_start,) * 2, (self.im_end,) * 2, *((i, i) for i in self.structure)]
        tag_ranges = [(f, f + tags - 1) for f in (self.first_height, self.first_width) if tags]
        ranges = sorted([*singles, *tag_ranges, *((lo, hi - 1) for lo, hi in self.levels)])
        for lo, hi in ranges:
            if lo < 0 or hi < lo or hi >= self.rows:
                raise ConfigError(f"VocabConfig: ids {lo}..{hi} do not fit into 0..{self.rows - 1}")
        for (_, before), (after, _) in pairwise(ranges):
            if after <= before:
                raise ConfigError(f"VocabConfig: id {after} stands for two tokens")

    @property
    def size(self) -> int:
        """One more than the highest id that is a token."""
        tags_end = max(self.first_height, self.first_width) + len(self.tag_pixels)
        return max(self.text_size, tags_end, max(self.structure) + 1, *(hi for _, hi in self.levels))

    @property
    def eos(self) -> tuple[int, int]:
        """Ids that end an answer: `<|im_end|>` and `<|endoftext|>`."""
        return self.im_end, self.pad

    @property
    def start_of_image(self) -> int:
        return self.structure[0]

    @property
    def end_of_image(self) -> int:
        return self.structure[1]

    @property
    def end_of_line(self) -> int:
        return self.structure[2]

    @property
    def level_starts(self) -> tuple[int, int]:
        """`<start_of_level0>`, `<start_of_level1>`."""
        return self.structure[3], self.structure[5]

    @property
    def level_ends(self) -> tuple[int, int]:
        """`<end_of_level0>`, `<end_of_level1>`."""
        return self.structure[4], self.structure[6]

    def codes(self, level: int) -> int:
        """Number of codes of a level: 0 semantic, 1 pixel."""
        lo, hi = self.levels[level]
        return hi - lo

    def height_tag(self, pixels: int) -> int:
        """Id of `<height_P>`. ValueError where no such tag exists."""
        return self.first_height + self._tag_index(pixels)

    def width_tag(self, pixels: int) -> int:
        """Id of `<width_P>`. ValueError where no such tag exists."""
        return self.first_width + self._tag_index(pixels)

    def size_tag(self, height: int, width: int) -> list[int]:
        """Ids of `<height_H><width_W>`."""
        return [self.height_tag(height), self.width_tag(width)]

    def added_tokens(self) -> Iterator[tuple[str, int]]:
        """(text, id) of every image token: structure, size tags, codes of both levels."""
        yield from zip(STRUCTURE_TOKENS, self.structure, strict=True)
        for i, pixels in enumerate(self.tag_pixels):
            yield f"<height_{pixels}>", self.first_height + i
        for i, pixels in enumerate(self.tag_pixels):
            yield f"<width_{pixels}>", self.first_width + i
        for level, (lo, hi) in enumerate(self.levels):
            for i in range(lo, hi):
                yield f"<|image_level{level}_{i - lo}|>", i

    def _tag_index(self, pixels: int) -> int:
        try:
            return self.tag_pixels.index(pixels)
        except ValueError:
            allowed = ", ".join(map(str, self.tag_pixels))
            raise ValueError(f"no size tag for {pixels} pixels; allowed sides are {allowed}") from None


def build_vocab(
    text_size: int,
    *,
    pad: int,
    im_start: int,
    im_end: int,
    levels: tuple[int, int],
    rows: int | None = None,
    tag_pixels: tuple[int, ...] = _TAG_PIXELS,
) -> VocabConfig:
    """Lay image tokens after `text_size` text tokens in ILLUME+'s order.

    The order: seven structure tokens, heights, widths, `levels[0]` semantic codes, `levels[1]` pixel codes. `rows` is
    the number of embedding rows (default: just enough).
    """
    heights = text_size + len(STRUCTURE_TOKENS)
    widths = heights + len(tag_pixels)
    semantic = widths + len(tag_pixels)
    pixel = semantic + levels[0]
    end = pixel + levels[1]
    soi = text_size
    return VocabConfig(
        rows=end if rows is None else rows,
        text_size=text_size,
        pad=pad,
        im_start=im_start,
        im_end=im_end,
        structure=(soi, soi + 1, soi + 2, soi + 3, soi + 4, soi + 5, soi + 6),
        tag_pixels=tag_pixels,
        first_height=heights,
        first_width=widths,
        levels=((semantic, pixel), (pixel, end)),
    )


def illume_plus_vocab(rows: int) -> VocabConfig:
    """The published ILLUME+ layout over Qwen2.5's text; `rows` is 283047 for 3B and 283175 for 7B."""
    return build_vocab(151665, pad=151643, im_start=151644, im_end=151645, levels=(32768, 98304), rows=rows)
