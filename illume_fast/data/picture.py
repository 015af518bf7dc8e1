"""Opening pictures from outside, which may be anything."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from illume_fast.data.errors import InputError

MAX_PIXELS = 64_000_000
# what Pillow's decoders raise on damaged data; MemoryError is a size in a header that the data does not bear out
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError),
    *(RuntimeError, MemoryError, struct.error),
)
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)


def load_picture(path: Path, origin: str = "") -> Image.Image:
    """The picture in `path` as RGB: turned as its EXIF says, transparency laid on white, first frame of several.

    Raises:
        InputError: the file is missing, no picture, truncated, or larger than `MAX_PIXELS` once decoded. The size is
            read from the header, so that a decompression bomb is never unpacked.
    """
    name = f"{origin}: picture {path}" if origin else f"picture {path}"
    if not os.path.exists(path):  # False as well for a name that is too long for any file
        raise InputError(f"{name} does not exist")
    try:
        with warnings.catch_warnings():
            # our own limit below is stricter than the one Pillow warns about
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise InputError(
                        f"{name} is {width} x {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} are allowed"
                    )
                opened.load()
                return on_white(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError:
        raise InputError(f"{name} has more than {MAX_PIXELS:,} pixels, which is the most allowed") from None
    except InputError:
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not a picture in a known format"
        raise InputError(f"{name} cannot be read: {reason}") from None


def load_pixels(path: Path, size: int) -> np.ndarray:
    """The picture in `path` scaled (Lanczos) to a square, uint8 [3, size, size]. InputError as in `load_picture`."""
    picture = load_picture(path)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture).transpose(2, 0, 1)


def upright(picture: Image.Image) -> Image.Image:
    """A picture from Python as RGB on white, turned as its EXIF says; of several frames the one it stands at.

    Raises:
        InputError: it is no Pillow picture, empty, damaged (files are read late), or larger than `MAX_PIXELS`.
    """
    _require_picture(picture)
    try:
        return on_white(ImageOps.exif_transpose(picture))
    except _DAMAGE as error:
        raise InputError(_unreadable(error)) from None


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of `upright`. InputError as there."""
    _require_picture(picture)
    try:
        turned = picture.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDE
    except _DAMAGE as error:
        raise InputError(_unreadable(error)) from None
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _require_picture(picture: object) -> None:
    if not isinstance(picture, Image.Image):
        raise InputError(f"a picture must be a PIL.Image.Image, got {type(picture).__name__}")
    width, height = picture.size
    if not width * height:
        raise InputError(f"a picture is {width} x {height}: it has no pixels")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"a picture is {width} x {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} are allowed"
        )


def _unreadable(error: Exception) -> str:
    return f"the picture cannot be read: {' '.join(str(error).split()) or type(error).__name__}"


def on_white(picture: Image.Image) -> Image.Image:
    """`picture` as RGB, with what is transparent in it shown white; 16 bits a pixel keep their upper 8.

    Raises:
        ValueError: the picture holds 32-bit numbers, of which nobody knows which is white.
    """
    if picture.mode.startswith("I;16"):
        # Pillow would cut everything above 255 to white
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode} have no known range; 8 or 16 bits are allowed")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
