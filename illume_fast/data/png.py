"""PNG files that carry how they were made, written so that a reader never sees half of one."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from illume_fast.data.files import write_atomically

RECORD = "illume_fast"


def encode_png(picture: Image.Image, record: dict[str, Any]) -> bytes:
    """`picture` with `record` in its text chunks: each entry by its own name, and all as JSON under `RECORD`."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in record.items():
        if value is not None:
            chunks.add_itxt(key, str(value))
    chunks.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG", pnginfo=chunks)
    return encoded.getvalue()


def write_png(path: Path, picture: Image.Image, record: dict[str, Any]) -> None:
    """Write the file of `encode_png`, which appears under its name only when it is whole.

    Raises:
        OSError: the folder cannot be written or is full; nothing is left behind.
    """
    encoded = encode_png(picture, record)
    write_atomically(path, lambda file: file.write(encoded))


def read_record(path: Path) -> dict[str, Any] | None:
    """The record that `write_png` put into the file, or None where the file is not such a PNG."""
    try:
        with Image.open(path) as picture:
            picture.load()
            text = picture.info.get(RECORD)
        record = json.loads(text) if text else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return record if isinstance(record, dict) else None
