"""Decoding of finished pictures: the same in any company, faults stay with their picture, memory is bounded."""

import threading

import pytest
import torch
from tiny_vision import LEVELS, tiny_vision

from illume_fast.data.sequence import ImageCodes
from illume_fast.decoding import DecodingQueue, PictureDecoder
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.movqgan import to_uint8
from illume_fast.model.vision_config import PixelCodecConfig


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    pixel = PixelCodecConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(3,))
    return DualViTok(tiny_vision(pixel)[0]).eval()


@pytest.fixture
def decoder(tokenizer):
    return PictureDecoder(tokenizer, torch.device("cpu"))


def picture(seed: int, height: int = 32, width: int = 32) -> ImageCodes:
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(0, LEVELS[0], (height // 16, width // 16), generator=generator)
    pixel = torch.randint(0, LEVELS[1], (height // 8, width // 8), generator=generator)
    return ImageCodes(height, width, (semantic, pixel))


def of_two(decoder, monkeypatch):
    """The decoder with groups of two, as an accelerator has larger ones."""
    monkeypatch.setattr(decoder, "together", lambda size: 2)
    return decoder


@torch.no_grad()
def test_pixels_are_those_of_the_tokenizer(decoder, tokenizer):
    codes = [picture(seed) for seed in range(3)]
    pixels = decoder.decode(codes)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 32, 32), torch.uint8)
    for one, c in zip(pixels, codes, strict=True):
        expected = to_uint8(tokenizer.decode_code(c.semantic[None], c.pixel[None]))[0]
        assert (one.int() - expected.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="there is no picture"):
        decoder.decode([])


@pytest.mark.parametrize("together", [1, 2])
def test_company_and_order_change_nothing(decoder, monkeypatch, together):
    sizes, pixels_of = set(), decoder._pixels

    def spy(semantic, pixel):
        sizes.add(len(semantic))
        return pixels_of(semantic, pixel)

    monkeypatch.setattr(decoder, "_pixels", spy)
    monkeypatch.setattr(decoder, "together", lambda size: together)
    codes = [picture(seed) for seed in range(5)]
    all_of_them = decoder.decode(codes)
    assert torch.equal(all_of_them, torch.cat([decoder.decode([c]) for c in codes]))
    assert torch.equal(all_of_them, decoder.decode(codes[::-1]).flip(0))
    assert sizes == {together}, "convolutions add up in another order in a batch of another size"


def test_groups_on_accelerators_hold_about_a_million_pixels(tokenizer):
    decoder = PictureDecoder(tokenizer, torch.device("meta"))
    groups = [decoder.together(size) for size in ((64, 64), (256, 1024), (512, 512), (2048, 1024))]
    assert groups == [16, 4, 4, 1]


def test_a_queue_gathers_pictures_of_a_size(decoder, monkeypatch):
    queue = DecodingQueue[str](of_two(decoder, monkeypatch))
    a, b, wide = picture(1), picture(2), picture(3, 32, 64)
    assert list(queue.add("a", a)) == []
    assert list(queue.add("wide", wide)) == []
    done = list(queue.add("b", b))
    assert [d.key for d in done] == ["a", "b"]
    assert torch.equal(torch.stack([d.pixels for d in done]), decoder.decode([a, b]))
    rest = list(queue.flush())
    assert [d.key for d in rest] == ["wide"]
    assert torch.equal(rest[0].pixels, decoder.decode([wide])[0])
    assert list(queue.flush()) == []


@pytest.mark.parametrize("together", [1, 2])
def test_a_fault_stays_with_its_picture(decoder, monkeypatch, together):
    monkeypatch.setattr(decoder, "together", lambda size: together)
    codes = [picture(seed) for seed in range(4)]
    # a code that the codebook lacks: the decoder itself raises
    codes[2] = ImageCodes(32, 32, (codes[2].semantic, codes[2].pixel + LEVELS[1]))
    queue = DecodingQueue[int](decoder)
    done = {d.key: d for key, c in enumerate(codes) for d in queue.add(key, c)}
    done |= {d.key: d for d in queue.flush()}
    assert sorted(done) == [0, 1, 2, 3]
    assert isinstance(done[2].error, IndexError)
    assert done[2].pixels is None
    for key in (0, 1, 3):
        assert done[key].error is None
        assert torch.equal(done[key].pixels, decoder.decode([codes[key]])[0])


def test_lack_of_memory_is_nobody_s_fault(decoder, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(decoder, "_pixels", full)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        list(DecodingQueue[int](decoder).add(0, picture(0)))


class Later:
    """An event that happens when it is told to, or when it is waited for."""

    def __init__(self) -> None:
        self.happened = self.waited = False

    def query(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        self.happened = self.waited = True


def test_work_under_way_is_bounded_and_handed_out_in_order(decoder, monkeypatch):
    events, start = [], decoder.start

    def later(codes, seeds):
        events.append(Later())
        return start(codes)[0], events[-1]

    monkeypatch.setattr(decoder, "start", later)
    queue = DecodingQueue[int](decoder)
    assert list(queue.add(0, picture(0))) == []
    assert list(queue.add(1, picture(1))) == []
    events[1].happened = True
    # the second is there, but comes after the first; with a third there are too many under way: the first is waited for
    assert [d.key for d in queue.add(2, picture(2))] == [0, 1]
    assert [e.waited for e in events] == [True, True, False]
    assert [d.key for d in queue.flush()] == [2]
    assert torch.equal(decoder.decode([picture(5)]), torch.stack([start([picture(5)])[0][0]]))


def test_no_thread_is_left_behind(decoder):
    before = threading.active_count()
    queue = DecodingQueue[int](decoder)
    given = queue.add(0, picture(0))
    next(given)
    given.close()
    assert threading.active_count() == before
