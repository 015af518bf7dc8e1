"""PNG files that carry how they were made, written so that a reader never sees half of one."""

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

RECORD = "illume_fast"


def write_png(path: Path, picture: Image.Image, record: dict[str, Any]) -> None:
    """Write `picture` with `record` in its text chunks: each entry by its own name, and all as JSON under `RECORD`.

    The file appears under its name only when it is whole.

    Raises:
        OSError: the folder cannot be written or is full; nothing is left behind.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in record.items():
        if value is not None:
            chunks.add_itxt(key, str(value))
    chunks.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))

    part = path.with_name(f".{path.name}.part")
    try:
        picture.save(part, format="PNG", pnginfo=chunks)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
