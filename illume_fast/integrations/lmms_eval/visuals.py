"""What a task of lmms-eval shows: pictures in several forms; videos and sounds are refused."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from illume_fast.data.errors import InputError
from illume_fast.data.picture import load_picture

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".wmv")
_KNOWN = "pictures of PIL, paths of pictures, and dicts with their bytes or path"


def pictures_of(visuals: Any, origin: str) -> list[Image.Image]:
    """The pictures in what `doc_to_visual` returns: none, one or a list, each as in `_KNOWN`.

    Raises:
        InputError: one is a video, a sound, damaged or of another kind; `origin` says of which document.
    """
    if visuals is None:
        return []
    items: Iterable[Any] = visuals if isinstance(visuals, list | tuple) else [visuals]
    return [_picture(item, origin) for item in items]


def _picture(item: Any, origin: str) -> Image.Image:
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, dict):
        if "array" in item or "sampling_rate" in item:
            raise InputError(f"{origin}: the model hears no sounds; {_KNOWN} are allowed")
        if isinstance(item.get("bytes"), bytes | bytearray):
            return _decoded(bytes(item["bytes"]), origin)
        item = item.get("path") or item.get("image") or item
        if not isinstance(item, dict):
            return _picture(item, origin)
    if isinstance(item, str | Path) and str(item):
        if Path(item).suffix.lower() in VIDEOS:
            raise InputError(f"{origin}: {item} is a video, of which the model sees none; {_KNOWN} are allowed")
        return load_picture(Path(item), origin)
    raise InputError(f"{origin}: shows a {type(item).__name__}; {_KNOWN} are allowed")


def _decoded(data: bytes, origin: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    # Pillow's decoders raise any of these on damaged data
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise InputError(f"{origin}: a picture cannot be read: {error}") from None
