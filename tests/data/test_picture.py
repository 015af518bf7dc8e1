"""Pictures from outside, and contact sheets of ours."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from illume_fast.data.errors import InputError
from illume_fast.data.picture import MAX_PIXELS, load_picture, upright
from illume_fast.data.sheet import contact_sheet

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path, width, height):
    """A few hundred bytes that say they are width x height."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_common_formats_come_as_rgb(tmp_path, suffix):
    NOISE.save(tmp_path / f"x.{suffix}")
    picture = load_picture(tmp_path / f"x.{suffix}")
    assert (picture.mode, picture.size) == ("RGB", (48, 64))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode).save(tmp_path / "x.png", transparency=None)
    assert load_picture(tmp_path / "x.png").getpixel((1, 1)) == (255, 255, 255)


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    NOISE.save(tmp_path / "x.jpg", exif=exif)
    assert load_picture(tmp_path / "x.jpg").size == (64, 48)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_pictures_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"x.{suffix}"
    NOISE.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=rf"picture .*x\.{suffix} cannot be read: ") as caught:
        load_picture(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width,height", [(MAX_PIXELS // 1000 + 1, 1000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(tmp_path, width, height):
    with pytest.raises(InputError, match=f"more than|at most {MAX_PIXELS:,} are allowed"):
        load_picture(bomb(tmp_path / "x.png", width, height))


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode frame 0"), MemoryError(), struct.error("no integer")])
def test_damage_is_refused_whatever_the_decoder_raises(tmp_path, monkeypatch, error):
    NOISE.save(tmp_path / "x.png")

    def decode(self):
        raise error

    monkeypatch.setattr(PngImageFile, "load", decode)
    with pytest.raises(InputError, match=r"picture .* cannot be read"):
        load_picture(tmp_path / "x.png")
    with pytest.raises(InputError, match="the picture cannot be read"):
        upright(Image.open(tmp_path / "x.png"))


def test_a_format_that_pillow_knows_and_cannot_decode(tmp_path):
    NOISE.save(tmp_path / "x.dds")
    data = bytearray((tmp_path / "x.dds").read_bytes())
    data[80:84] = struct.pack("<I", 1)  # flags of no pixel format
    (tmp_path / "x.dds").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read: Unknown pixel format"):
        load_picture(tmp_path / "x.dds")


def test_other_files_and_no_file(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("x.png", "empty.png"):
        with pytest.raises(InputError, match=r"line 3: picture .* cannot be read: not a picture in a known format"):
            load_picture(tmp_path / name, "p.jsonl line 3")
    with pytest.raises(InputError, match="does not exist"):
        load_picture(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="does not exist"):
        load_picture(tmp_path / ("A" * 5000))
    with pytest.raises(InputError, match="cannot be read"):
        load_picture(tmp_path)


def test_a_contact_sheet_shows_every_picture_once(tmp_path):
    colours = [(200, 10 * i, 250 - 10 * i) for i in range(12)]
    tiles = [
        (f"a caption that is rather long, number {i}", [Image.new("RGB", (4, 4), c)]) for i, c in enumerate(colours)
    ]
    page = np.asarray(contact_sheet(tiles, picture_height=64))
    for colour in colours:
        assert (page == colour).all(axis=-1).sum() == 64 * 64
    assert 0.5 < page.shape[0] / page.shape[1] < 2


def test_a_contact_sheet_keeps_proportions_and_needs_a_picture():
    page = np.asarray(contact_sheet([("wide", [Image.new("RGB", (20, 10), (1, 2, 3))]), ("none", [])], 50))
    assert (page == (1, 2, 3)).all(axis=-1).sum() == 100 * 50
    line = np.asarray(contact_sheet([("a line", [Image.new("RGB", (30_000, 10), (1, 2, 3))])], 50))
    assert (line == (1, 2, 3)).all(axis=-1).sum() == 200 * 1
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([("none", [])])


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    picture = np.asarray(load_picture(tmp_path / "deep.png"))
    assert (picture == (grey >> 8)[..., None]).all()


def test_numbers_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match="pixels of mode F have no known range"):
        load_picture(tmp_path / "float.tiff")
