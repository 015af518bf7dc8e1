"""Codes of finished pictures to pixels, beside the drawing of the next ones."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.model.cpu_decoder import CpuDecoder
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.kinds import AnyTokenizer
from illume_fast.model.movqgan import to_uint8
from illume_fast.model.vision_folder import require_vision_tokenizer

_GROUP_PIXELS = 2**20
_MOST_TOGETHER = 16
_GROUPS_UNDER_WAY = 2

T = TypeVar("T")


class Event(Protocol):
    """The end of work that an accelerator was given."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Decoded(Generic[T]):
    """What was handed in with a picture's codes, and its pixels uint8 [3, H, W] or what the decoder raised."""

    key: T
    pixels: Tensor | None = None
    error: Exception | None = None


class Decoder(Protocol):
    """Makes pixels of finished pictures' codes; a picture is the same in any company."""

    def together(self, size: Size) -> int:
        """Pictures of `size` (height, width of the codes' pictures) in a group."""
        ...

    def check(self) -> None:
        """Raise what would keep it from making any picture."""
        ...

    def start(self, codes: Sequence[ImageCodes], seeds: Sequence[int]) -> tuple[Tensor, Event | None]:
        """Begin a group of at most `together` pictures: (uint8 [N, 3, H, W] on the CPU, the event that fills it).

        Where a decoder draws noise, a picture's comes from its seed. Without an event the pixels are there.
        """
        ...


def decode_pictures(decoder: Decoder, codes: Sequence[ImageCodes], seeds: Sequence[int]) -> Tensor:
    """Codes of pictures of one size -> uint8 [N, 3, H, W] on the CPU."""
    if not codes:
        raise ValueError("decode: there is no picture; give the codes of one at least")
    decoder.check()
    if len(seeds) != len(codes):
        raise ValueError(f"decode: {len(seeds)} seeds were given for {len(codes)} pictures; give one for each")
    together = decoder.together((codes[0].height, codes[0].width))
    parts = [slice(i, i + together) for i in range(0, len(codes), together)]
    groups = [decoder.start(codes[part], seeds[part]) for part in parts]
    for _, event in groups:
        if event is not None:
            event.synchronize()
    return torch.cat([pixels for pixels, _ in groups])


class PictureDecoder:
    """Decodes pictures of one tokenizer; a picture's pixels do not depend on the company it is decoded in.

    Convolutions add up in another order in a batch of another size, so a group always has the same number of pictures
    of one size. On a CPU that is one: its cores share a picture, weights packed for it cost as much for more. On an
    accelerator it is about a million pixels, on a stream of its own, so that a step of the engine need not wait for it.
    """

    def __init__(self, tokenizer: AnyTokenizer | None, device: torch.device) -> None:
        self.device = device
        self._tokenizer = tokenizer
        self._on_cpu = device.type == "cpu"
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # made at the first picture: a pipeline that only answers needs neither
        self._codebooks: tuple[Tensor, Tensor] | None = None
        self._cpu_decoder: CpuDecoder | None = None

    @property
    def tokenizer(self) -> DualViTok:
        """The vision tokenizer. CheckpointError, saying what to give, where there is none that makes pixels."""
        return require_vision_tokenizer(self._tokenizer)

    def check(self) -> None:
        """CheckpointError where the model was loaded without a vision tokenizer."""
        require_vision_tokenizer(self._tokenizer)

    def together(self, size: Size) -> int:
        """Pictures of `size` in a group."""
        return 1 if self._on_cpu else max(1, min(_MOST_TOGETHER, _GROUP_PIXELS // (size[0] * size[1])))

    def decode(self, codes: Sequence[ImageCodes]) -> Tensor:
        """Codes of pictures of one size -> uint8 [N, 3, H, W] on the CPU."""
        return decode_pictures(self, codes, [0] * len(codes))

    @torch.no_grad()
    def start(self, codes: Sequence[ImageCodes], seeds: Sequence[int] = ()) -> tuple[Tensor, Event | None]:
        """See `Decoder`; no noise is drawn."""
        filled = [*codes, *[codes[-1]] * (self.together((codes[0].height, codes[0].width)) - len(codes))]
        ids = [torch.stack(level) for level in zip(*(c.levels for c in filled), strict=True)]
        if self._stream is None:
            vectors = [F.embedding(i.to(self.device), book) for i, book in zip(ids, self.codebooks, strict=True)]
            return self._pixels(*vectors)[: len(codes)].cpu(), None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            vectors = [F.embedding(i.to(self.device), book) for i, book in zip(ids, self.codebooks, strict=True)]
            pixels = self._pixels(*vectors)[: len(codes)]
            there = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
            there.copy_(pixels, non_blocking=True)
            return there, self._stream.record_event()

    @torch.no_grad()
    def vectors_to_pixels(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """Vectors of codes, float32 [h, w, z] and [p, q, z], of one picture -> uint8 [3, H, W] on the CPU."""
        return self._pixels(semantic[None].to(self.device), pixel[None].to(self.device))[0].cpu()

    @property
    def codebooks(self) -> tuple[Tensor, Tensor]:
        """Vectors of all semantic and of all pixel codes, float32 [K, z] each."""
        if self._codebooks is None:
            quantizers = self.tokenizer.semantic_quantizer, self.tokenizer.pixel_quantizer
            self._codebooks = quantizers[0].codebook.detach(), quantizers[1].codebook.detach()
        return self._codebooks

    def _pixels(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        maps = semantic.movedim(-1, 1), pixel.movedim(-1, 1)
        if not self._on_cpu:
            return to_uint8(self.tokenizer.decode(*maps))
        if self._cpu_decoder is None:
            self._cpu_decoder = CpuDecoder(self.tokenizer)
        return to_uint8(self._cpu_decoder(*maps))


@dataclass(frozen=True, eq=False)
class _Taken(Generic[T]):
    """A picture in the queue."""

    key: T
    codes: ImageCodes
    seed: int


class DecodingQueue(Generic[T]):
    """Pictures on their way through a `Decoder`, handed out in the order in which their groups were full.

    At most two groups are under way, and less than a group of each size waits for company. There is no thread: a
    decoder works within these calls, or on an accelerator's stream; one that works piece by piece does the next piece
    whenever its event is asked for, which `advance` does between steps of the engine.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._waiting: dict[Size, list[_Taken[T]]] = {}
        self._under_way: deque[tuple[list[_Taken[T]], Tensor, Event]] = deque()

    def check(self) -> None:
        """Raise what would keep any picture from being decoded."""
        self._decoder.check()

    def add(self, key: T, codes: ImageCodes, seed: int = 0) -> Iterator[Decoded[T]]:
        """Take in a picture; yield those that are done.

        Raises:
            torch.OutOfMemoryError: no picture's fault. What else the decoder raises is handed out with the picture.
        """
        size = codes.height, codes.width
        group = self._waiting.setdefault(size, [])
        group.append(_Taken(key, codes, seed))
        if len(group) == self._decoder.together(size):
            yield from self._start(self._waiting.pop(size))
        while self._under_way and (len(self._under_way) > _GROUPS_UNDER_WAY or self._under_way[0][2].query()):
            yield from self._finish()

    def advance(self) -> None:
        """Let what is under way go on, without waiting; pictures are handed out by the other calls."""
        if self._under_way:
            self._under_way[0][2].query()

    def flush(self) -> Iterator[Decoded[T]]:
        """Yield all that was taken in."""
        while self._waiting:
            yield from self._start(self._waiting.pop(next(iter(self._waiting))))
        while self._under_way:
            yield from self._finish()

    def _start(self, group: list[_Taken[T]]) -> Iterator[Decoded[T]]:
        try:
            pixels, event = self._decoder.start([one.codes for one in group], [one.seed for one in group])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            yield from self._apart(group, error)
            return
        if event is None:
            yield from _each(group, pixels)
        else:
            self._under_way.append((group, pixels, event))

    def _finish(self) -> Iterator[Decoded[T]]:
        group, pixels, event = self._under_way.popleft()
        try:
            event.synchronize()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            yield from self._apart(group, error)
            return
        yield from _each(group, pixels)

    def _apart(self, group: list[_Taken[T]], error: Exception) -> Iterator[Decoded[T]]:
        """Of a group that failed, each picture again on its own; a lone one failed."""
        if len(group) == 1:
            yield Decoded(group[0].key, error=error)
            return
        for one in group:
            yield from self._start([one])


def _each(group: list[_Taken[T]], pixels: Tensor) -> Iterator[Decoded[T]]:
    for taken, one in zip(group, pixels, strict=True):
        yield Decoded(taken.key, one)
