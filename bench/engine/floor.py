"""What decoding cannot do without: bytes read and multiply-adds, for a model's shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from illume_fast.model.config import DecoderConfig


@dataclass(frozen=True)
class Work:
    """Bytes to be read and operations, a multiply-add being two; `footprint` are the bytes each step reads anew."""

    bytes: float = 0.0
    operations: float = 0.0
    footprint: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        footprint = max(self.footprint, other.footprint)
        return Work(self.bytes + other.bytes, self.operations + other.operations, footprint)

    def __mul__(self, times: float) -> "Work":
        return Work(self.bytes * times, self.operations * times, self.footprint)

    def read_once_in(self, steps: int) -> "Work":
        """The same of so many steps that read everything together."""
        return Work(self.bytes / steps, self.operations, self.footprint)

    @property
    def whole(self) -> dict[str, int]:
        """The numbers as a contest takes them."""
        return {name: round(getattr(self, name)) for name in ("bytes", "operations", "footprint")}

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The longer of reading at `bandwidth` bytes and multiplying at `rate` operations a second."""
        return max(self.bytes / bandwidth, self.operations / rate)


def body_weights(config: DecoderConfig) -> int:
    """Numbers in the matrices of all layers."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    return config.num_hidden_layers * config.hidden_size * (heads * config.head_size + 3 * config.intermediate_size)


def decode_step(
    config: DecoderConfig, contexts: Sequence[float], *, batch: int, head_rows: float, itemsize: int
) -> Work:
    """One step of `batch` pictures: `contexts` are the tokens that each branch of a picture sees on average.

    Every weight is read once, and `head_rows` rows of the head, which the branches share (they are mixed before it);
    keys and values once for each stream.
    """
    body, head = body_weights(config), head_rows * config.hidden_size
    seen = batch * sum(contexts) * config.num_hidden_layers * config.head_size
    read = (body + head + 2 * seen * config.num_key_value_heads) * itemsize
    return Work(read, 2 * batch * (len(contexts) * body + head) + 4 * seen * config.num_attention_heads, read)


def reading(config: DecoderConfig, prompts: Sequence[int], *, itemsize: int) -> Work:
    """Prompts of so many tokens, read together: every weight once, a product for every token, causal attention."""
    body = body_weights(config)
    pairs = sum(length * (length + 1) / 2 for length in prompts)
    width = config.num_hidden_layers * config.num_attention_heads * config.head_size
    return Work(body * itemsize, 2 * sum(prompts) * body + 4 * pairs * width, body * itemsize)


@dataclass(frozen=True)
class PictureFloor:
    """Seconds of a step, pictures a second, and seconds from the first step of a picture to its last."""

    step: float
    pictures_per_second: float
    latency: float


def picture_floor(
    config: DecoderConfig,
    *,
    tokens: int,
    batch: int,
    bandwidth: float,
    rate: float,
    head_rows: float,
    prompt: int = 64,
    unconditional: int | None = 16,
    itemsize: int = 2,
) -> PictureFloor:
    """The floor of `batch` guided pictures of `tokens` drawn tokens, drawn together; without the prompts' reading.

    `unconditional` is the length of the second branch's prompt, None without guidance. Forced tokens ride along.
    """
    contexts = [length + tokens / 2 for length in (prompt, unconditional) if length is not None]
    step = decode_step(config, contexts, batch=batch, head_rows=head_rows, itemsize=itemsize).seconds(bandwidth, rate)
    return PictureFloor(step, batch / (tokens * step), tokens * step)
