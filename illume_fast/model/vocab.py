"""Where text, structure, size and image-code tokens lie among the embedding rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from illume_fast.model.strict import Config, ConfigError

_FRAME_TOKENS = ("<start_of_image>", "<end_of_image>", "<end_of_line>")
IMAGE_PLACEHOLDER = -200
"""Stands in a prompt's ids where a picture is read as continuous features."""
IGNORE_INDEX = -100
"""Label of a position that is not learnt."""
_TAG_PIXELS = tuple(range(64, 1025, 64))


@dataclass(frozen=True)
class VocabConfig(Config):
    """Where each kind of token lies among the embedding rows.

    `structure` holds the ids of `structure_tokens` in that order; `<height_P>` for the i-th value P of `tag_pixels`
    is `first_height + i`, likewise the width; `levels` holds a half-open id range of codes per level (ILLUME has one
    level, ILLUME+ a semantic and a pixel level). `rows` counts the embedding rows, of which those at and after `size`
    belong to no token.
    """

    rows: int
    text_size: int
    pad: int
    im_start: int
    im_end: int
    structure: tuple[int, ...]
    tag_pixels: tuple[int, ...]
    first_height: int
    first_width: int
    levels: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ConfigError("VocabConfig.levels: at least one level is needed")
        names = structure_tokens(len(self.levels))
        if len(self.structure) != len(names):
            raise ConfigError(
                f"VocabConfig.structure: {len(self.structure)} ids, but {len(self.levels)} levels need {len(names)}: "
                + ", ".join(names)
            )
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
    def level_marks(self) -> tuple[tuple[int, int], ...]:
        """(`<start_of_levelI>`, `<end_of_levelI>`) of each level; none where there is one level alone."""
        marks = self.structure[len(_FRAME_TOKENS) :]
        return tuple(zip(marks[::2], marks[1::2], strict=True))

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
        yield from zip(structure_tokens(len(self.levels)), self.structure, strict=True)
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
            raise ValueError(f"no size tag for {pixels} pixels; allowed sides are {allowed or 'none'}") from None


def structure_tokens(levels: int) -> tuple[str, ...]:
    """Names of the tokens that give a picture of so many levels its structure; one level needs no marks of its own."""
    marks = [f"<{edge}_of_level{i}>" for i in range(levels) for edge in ("start", "end")]
    return (*_FRAME_TOKENS, *(marks if levels > 1 else ()))


def build_vocab(
    text_size: int,
    *,
    pad: int,
    im_start: int,
    im_end: int,
    levels: tuple[int, ...],
    rows: int | None = None,
    tag_pixels: tuple[int, ...] = _TAG_PIXELS,
) -> VocabConfig:
    """Lay image tokens after `text_size` text tokens in ILLUME+'s order.

    The order: structure tokens, heights, widths, `levels[0]` semantic codes, and `levels[1]` pixel codes where there
    are two levels. `rows` is the number of embedding rows (default: just enough).
    """
    heights = text_size + len(structure_tokens(len(levels)))
    widths = heights + len(tag_pixels)
    edges = list(accumulate(levels, initial=widths + len(tag_pixels)))
    return VocabConfig(
        rows=edges[-1] if rows is None else rows,
        text_size=text_size,
        pad=pad,
        im_start=im_start,
        im_end=im_end,
        structure=tuple(range(text_size, heights)),
        tag_pixels=tag_pixels,
        first_height=heights,
        first_width=widths,
        levels=tuple(pairwise(edges)),
    )


def illume_plus_vocab(rows: int) -> VocabConfig:
    """The published ILLUME+ layout over Qwen2.5's text; `rows` is 283047 for 3B and 283175 for 7B."""
    return build_vocab(151665, pad=151643, im_start=151644, im_end=151645, levels=(32768, 98304), rows=rows)
