"""Contact sheets: many pictures and their captions on one page."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 20
GAP = 4
CAPTION_LINES = 3
MAX_ASPECT = 4
"""Pictures that are wider than so many heights are shown less high."""
FONT_SIZE = 13


def contact_sheet(tiles: Sequence[tuple[str, Sequence[Image.Image]]], picture_height: int = 128) -> Image.Image:
    """Lay out tiles, each a caption under a row of pictures, in a page about as wide as it is high.

    Args:
        tiles: (caption, pictures) in reading order; pictures are `picture_height` pixels high, very wide ones less.

    Raises:
        ValueError: there is no picture to show.
    """
    rows = [(caption, [_scaled(picture, picture_height) for picture in pictures]) for caption, pictures in tiles]
    rows = [(caption, pictures) for caption, pictures in rows if pictures]
    if not rows:
        raise ValueError("a contact sheet needs at least one picture")
    font = ImageFont.load_default(FONT_SIZE)
    line_height = FONT_SIZE + 3
    tile_width = max(sum(p.width for p in pictures) + GAP * (len(pictures) - 1) for _, pictures in rows)
    tile_height = picture_height + GAP + CAPTION_LINES * line_height
    columns = _columns(len(rows), tile_width + MARGIN, tile_height + MARGIN)

    lines = -(-len(rows) // columns)
    page = Image.new(
        "RGB", (MARGIN + columns * (tile_width + MARGIN), MARGIN + lines * (tile_height + MARGIN)), "white"
    )
    draw = ImageDraw.Draw(page)
    for number, (caption, pictures) in enumerate(rows):
        left = MARGIN + (number % columns) * (tile_width + MARGIN)
        top = MARGIN + (number // columns) * (tile_height + MARGIN)
        x = left
        for picture in pictures:
            page.paste(picture, (x, top))
            x += picture.width + GAP
        for index, line in enumerate(_wrapped(caption, font, tile_width)):
            draw.text((left, top + picture_height + GAP + index * line_height), line, fill=(64, 64, 64), font=font)
    return page


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    scale = min(height / picture.height, MAX_ASPECT * height / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _columns(count: int, width: int, height: int) -> int:
    # columns * width == rows * height for a square page
    return max(1, min(count, round((count * height / width) ** 0.5)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """`text` in at most `CAPTION_LINES` lines that fit `width` pixels, cut with an ellipsis where it does not fit."""
    words, lines = text.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    whole = len(lines) <= CAPTION_LINES
    lines = lines[:CAPTION_LINES]
    for index, line in enumerate(lines):
        cut = not whole and index == len(lines) - 1
        while line and font.getlength(line + "…" * cut) > width:
            line, cut = line[:-1], True
        lines[index] = line + "…" * cut
    return lines
