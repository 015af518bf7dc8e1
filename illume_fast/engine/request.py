"""What goes into the engine and what comes out: prompts as segments, requests and results.

Nothing here knows a particular model. An adapter (such as `illume_fast.pipeline`) turns prompts and pictures into
`Segment`s, a picture size into a `Plan`, and the ids of a `Result` back into pictures or text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.plan import Plan
from illume_fast.engine.sampling import SamplingParams
from illume_fast.model.attention import Attend
from illume_fast.model.head import Head


class DecoderShape(Protocol):
    """The numbers of a decoder's config that size a key-value cache."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def num_hidden_layers(self) -> int: ...

    @property
    def num_key_value_heads(self) -> int: ...

    @property
    def head_size(self) -> int: ...

    @property
    def max_position_embeddings(self) -> int: ...


class PagedDecoder(Protocol):
    """The body of a language model: embeddings in, hidden states out."""

    @property
    def config(self) -> DecoderShape: ...

    def __call__(self, inputs_embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """inputs_embeds [T, H], positions int64[T] -> hidden [T, H]; each layer calls `attend` with rotated q, k."""
        ...


class GenerativeModel(Protocol):
    """Any decoder with a token embedding and a head over its vocabulary."""

    @property
    def decoder(self) -> PagedDecoder: ...

    def embed(self, ids: Tensor) -> Tensor:
        """ids int64[T] -> embeddings [T, H]."""
        ...

    @property
    def head(self) -> Head:
        """Scores of the whole vocabulary."""
        ...


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of a prompt: token ids, or features that are already embedded.

    `ids` is a tuple of ints. `features` is [n, H] with a `key` that names its content: two segments with the same
    key and length are taken to hold the same features, which lets requests share their pages.
    """

    ids: tuple[int, ...] = ()
    features: Tensor | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.features is None:
            if self.key is not None:
                raise ValueError("segment: a key belongs to features, and there are none")
            return
        if self.ids:
            raise ValueError("segment: give ids or features, not both")
        if self.features.ndim != 2:
            raise ValueError(f"segment: features must be [n, H], got shape {tuple(self.features.shape)}")
        if not self.key:
            raise ValueError("segment: features need a key that names their content")

    def __len__(self) -> int:
        return len(self.ids) if self.features is None else self.features.shape[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """`n` samples of one answer to one prompt.

    `unconditional` is the prompt of the second branch of classifier-free guidance; guidance other than 1 needs it.
    Sample `k` draws with `sample_seed(seed, k)`, so each can be made again alone; the draw at step s of the answer,
    forced ids counted, has step s. With `partial_every` the engine's `on_partial` is told of a sample after every so
    many of its draws. With `keep` the answer stays in the cache as long as there is room, so that a later prompt which
    goes on from it (the next turn of a conversation) reads only what is new. `tag` comes back untouched.
    """

    id: str
    prompt: tuple[Segment, ...]
    plan: Plan
    sampling: SamplingParams = field(default_factory=SamplingParams)
    unconditional: tuple[Segment, ...] | None = None
    seed: int = 0
    n: int = 1
    partial_every: int = 0
    keep: bool = False
    tag: Any = None

    @property
    def guided(self) -> bool:
        """Whether a second, unconditional stream runs beside each sample, if only for a while."""
        sampling = self.sampling
        somewhere = any(sampling.guidance_of(s) != 1.0 for s in sampling.sets)
        return somewhere and sampling.guidance_until not in (0, sampling.guidance_from)

    @property
    def strongest(self) -> float:
        """The scale of guidance furthest from 1."""
        return max(map(self.sampling.guidance_of, self.sampling.sets), key=lambda scale: abs(scale - 1))

    def problem(self) -> str | None:
        """Why this request can never run on any engine, in one line, or None."""
        if self.n < 1:
            return f"n must be at least 1, got {self.n}"
        if not 0 <= self.seed < 2**63:
            return f"seed must lie in [0, 2**63), got {self.seed}"
        if not sum(map(len, self.prompt)):
            return "the prompt is empty"
        if self.guided and not sum(map(len, self.unconditional or ())):
            return f"guidance {self.strongest:g} asked, but there is no unconditional prompt; use guidance 1"
        if self.partial_every < 0:
            return f"partial_every must be 0 (never) or positive, got {self.partial_every}"
        needed = 1 + max((site.set for site in self.plan.all_sites), default=0)
        if needed > len(self.sampling.sets):
            return f"the plan uses {needed} sampling sets, but {len(self.sampling.sets)} were given"
        return None


class RequestError(RuntimeError):
    """A request failed; the message names the request and the reason."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """One finished sample, or the error that ended it.

    `ids` int64[S] is the answer with forced tokens and, when it ended early, the stop id. `finish` is "plan" (the
    plan was drawn to its end), "stop" (a stop id came), "cancelled" or "error"; `error` is set in the last two cases
    and `ids` is empty. A request refused whole yields one `Result` with `sample` 0.
    """

    request: Request
    sample: int
    seed: int
    ids: Tensor
    finish: str
    error: RequestError | None = None

    @classmethod
    def of(cls, request: Request, sample: int, ids: NDArray[np.int64], finish: str) -> "Result":
        """A finished sample; `ids` are copied."""
        seed = sample_seed(request.seed, sample)
        return cls(request=request, sample=sample, seed=seed, ids=torch.tensor(ids, dtype=torch.int64), finish=finish)

    @classmethod
    def failed(cls, request: Request, sample: int, reason: str, finish: str = "error") -> "Result":
        """A sample that could not be made."""
        error = RequestError(f"request {request.id!r}: {reason}")
        ids, seed = torch.empty(0, dtype=torch.int64), sample_seed(request.seed, sample)
        return cls(request=request, sample=sample, seed=seed, ids=ids, finish=finish, error=error)


@dataclass(frozen=True, eq=False, kw_only=True)
class Partial:
    """A sample under way: `ids` int64[S'] is its answer so far, with the forced ids before the next draw.

    It is the beginning of what comes out, whatever the plan; of an answer that is whole, nothing is told.
    """

    request: Request
    sample: int
    ids: Tensor


@dataclass(frozen=True)
class Progress:
    """Where a run of the engine stands after a step: running totals, and what this step held.

    `guessed` of the steps guessed ahead. `accepted` are the draws that a row keeps in such a step, averaged over the
    engine's life; None before there was one.
    """

    step: int
    active: int
    waiting: int
    drawn: int
    finished: int
    accepted: float | None = None
    guessed: int = 0


OnStep = Callable[[Progress], None]
OnPartial = Callable[[Partial], None]

_MASK = 2**64 - 1


def sample_seed(seed: int, sample: int) -> int:
    """The seed of the `sample`-th of a request's `n` samples: `seed` itself for sample 0.

    Later samples take 53 bits (exact in JSON) of SplitMix64 (Steele, Lea and Flood, 2014) started at `seed` and
    advanced `sample` times, so that requests with neighbouring seeds do not share noise.
    """
    if sample == 0:
        return seed
    z = (seed + sample * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 11
