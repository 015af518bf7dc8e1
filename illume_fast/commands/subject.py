"""A loaded model as the subject of an evaluation: arrays of pictures in, arrays of pictures and names out."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from illume_fast.commands.options import SamplingOptions
from illume_fast.data.image import to_picture, to_tensor
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size
from illume_fast.jobs.painter import Painter
from illume_fast.pipeline import Ask, Done, Draw
from illume_fast.training.prepare import NAME_IT

# asked as in training, with the picture given apart
QUESTION = NAME_IT.removeprefix("<image>\n")
_ENCODED_AT_ONCE = 32


class PainterSubject:
    """`painter` judged on pictures of `size` x `size` pixels; what it draws in another size is scaled to that.

    `advance` is called for every picture that is reconstructed, drawn or named.
    """

    def __init__(
        self, painter: Painter, options: SamplingOptions, size: int, advance: Callable[[], None] = lambda: None
    ) -> None:
        self.pipeline = painter.pipeline
        self.sampling = {key: getattr(options, key) for key in ("sampling", "temperature", "top_k", "top_p")}
        self.size: Size = (size, size)
        self.advance = advance

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """Encode and decode uint8 [N, 3, S, S] with the vision tokenizer."""
        drawn = self.pipeline.sizes[0]
        found = []
        for start in range(0, len(pixels), _ENCODED_AT_ONCE):
            pictures = [_scaled(_picture(p), drawn) for p in pixels[start : start + _ENCODED_AT_ONCE]]
            batch = torch.cat([to_tensor(picture) for picture in pictures]).to(self.pipeline.engine.device)
            semantic, pixel = self.pipeline.decoder.tokenizer.encode(batch)
            codes = [ImageCodes(*drawn, (s, p)) for s, p in zip(semantic, pixel, strict=True)]
            for decoded in self.pipeline.decode(codes):
                found.append(self._array(to_picture(decoded)))
                self.advance()
        return np.stack(found)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], guidance: float) -> np.ndarray:
        """A picture for each prompt, uint8 [N, 3, S, S]."""
        return self._drawn([(prompt, None) for prompt in prompts], seeds, guidance)

    def edit(
        self, pixels: np.ndarray, instructions: Sequence[str], seeds: Sequence[int], guidance: float
    ) -> np.ndarray:
        """An edit of each picture, uint8 [N, 3, S, S]."""
        return self._drawn(zip(instructions, map(_picture, pixels), strict=True), seeds, guidance)

    def name(self, pixels: np.ndarray) -> list[str]:
        """What the model says that each picture shows."""
        tasks = (Ask(prompt=QUESTION, images=(_picture(p),), tag=number) for number, p in enumerate(pixels))
        return [done.text or "" for done in self._finished(tasks)]

    def _drawn(
        self, wanted: Iterable[tuple[str, Image.Image | None]], seeds: Sequence[int], guidance: float
    ) -> np.ndarray:
        tasks = (
            Draw(prompt=prompt, image=image, guidance=guidance, seed=seed, tag=number, **self.sampling)
            for number, ((prompt, image), seed) in enumerate(zip(wanted, seeds, strict=True))
        )
        return np.stack([self._array(done.picture) for done in self._finished(tasks)])

    def _finished(self, tasks: Iterable[Draw | Ask]) -> list[Done]:
        """All results in the order of their tasks; the first error is raised."""
        found = []
        for done in self.pipeline.generate_stream(tasks):
            if done.error is not None:
                raise done.error
            found.append(done)
            self.advance()
        return sorted(found, key=lambda done: done.task.tag)

    def _array(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(_scaled(picture, self.size)).transpose(2, 0, 1)


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _scaled(picture: Image.Image, size: Size) -> Image.Image:
    height, width = size
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)
