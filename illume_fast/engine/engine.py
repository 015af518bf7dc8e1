"""The engine: a model, a paged cache, and `generate`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from illume_fast.engine.batch import filled_up
from illume_fast.engine.cache import PagedCache, PromptStore
from illume_fast.engine.clock import clock_of
from illume_fast.engine.graphs import Graphs
from illume_fast.engine.invariance import products_of, row_multiple
from illume_fast.engine.request import GenerativeModel, OnPartial, OnStep, Request, Result, Segment
from illume_fast.engine.run import Machine, Run
from illume_fast.engine.speculation import Speculation
from illume_fast.engine.step import Buffers
from illume_fast.engine.tables import Tables
from illume_fast.engine.weights import Weights

_DEFAULT_CACHE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Sizes of the engine.

    `max_batch` samples draw together (guidance doubles the streams, not this number). The cache holds `cache_tokens`
    tokens, by default what fits in 1 GiB. Prompts are read in passes of at most `read_tokens` tokens. With
    `invariant`, batches are filled up so that a row's bits do not depend on its neighbours (see `invariance`); this
    costs up to seven idle rows in a step and changes nothing from eight streams on. With `graphs` steps are recorded
    and replayed (see `graphs`): None does so where it can be done, True raises RuntimeError where it cannot. Without
    `share` no prompt is found again, not even by the other samples of its request (`Request.keep` does nothing then):
    answers are the same, and what sharing gains can be measured.

    With `speculative`, a row makes up to that many draws in a step and keeps those that are sure (see `speculation`);
    None, 0 and 1 are off. Answers are the same whether a step guesses or not, but others than without speculation,
    since their noise is that of a race. Steps guess while that is faster, which is found out by trying both ways now
    and then (see `trials`), and only while they feed at most `speculative_tokens` drafts and last ids, both branches
    of guidance counted. Without `speculative_by_clock` that limit alone decides.
    """

    max_batch: int = 64
    cache_tokens: int | None = None
    page_size: int = 16
    read_tokens: int = 1024
    invariant: bool = True
    graphs: bool | None = None
    share: bool = True
    speculative: int | None = None
    speculative_tokens: int = 16
    speculative_by_clock: bool = True

    def __post_init__(self) -> None:
        for name in ("max_batch", "page_size", "read_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"EngineConfig.{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("speculative", "speculative_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"EngineConfig.{name}: must not be negative, got {getattr(self, name)}")
        if self.cache_tokens is not None and self.cache_tokens < 1:
            raise ValueError(f"EngineConfig.cache_tokens: must be at least 1, got {self.cache_tokens}")


class Engine:
    """Draws answers to many prompts at once, for any `GenerativeModel`.

    A sample's ids depend on its prompt, plan, sampling settings and seed alone: not on the batch, its order, or what
    is shared (float32; other dtypes as far as the machine's matrix products allow, which `invariant` makes sure of).
    """

    def __init__(self, model: GenerativeModel, config: EngineConfig | None = None) -> None:
        self.model = model
        self.config = config or EngineConfig()
        head = model.head.weight
        self.device, self.dtype = head.device, head.dtype
        self.vocab_size, self.hidden_size = len(head), model.decoder.config.hidden_size
        shape = model.decoder.config
        token_bytes = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_size * head.element_size()
        tokens = self.config.cache_tokens or min(
            _DEFAULT_CACHE_BYTES // token_bytes, 2 * self.config.max_batch * shape.max_position_embeddings
        )
        # one more page for rows that only fill up a batch
        pages = -(-tokens // self.config.page_size) + 1
        self.row_multiple = 1
        if self.config.invariant:
            most = max(2 * self.config.max_batch, self.config.read_tokens, self.config.speculative_tokens)
            self.row_multiple = row_multiple(products_of(model.decoder, head), most)
        self.cache = PagedCache(shape, pages, self.config.page_size, self.dtype, self.device)
        self.graphs = Graphs(self.device, self.config.graphs)
        self.speculation: Speculation | None = None
        self._machine = self._build()
        self._run: Run | None = None
        self._weights = Weights(model)

    def _build(self) -> Machine:
        config, cache = self.config, self.cache
        rounding = partial(filled_up, multiple=self.row_multiple, few_sizes=self.device.type == "cuda")
        rows = rounding(config.max_batch)
        draws = max(config.max_batch, config.speculative_tokens if config.speculative else 0)
        places = rounding(draws) + draws * rounding(1)  # at worst each draw is a group of its own
        if config.speculative is not None and config.speculative > 1:
            clock = clock_of(self.device) if config.speculative_by_clock else None
            self.speculation = Speculation(
                config.speculative, config.speculative_tokens, config.max_batch, places, self.device, clock
            )
        longest = min(self.model.decoder.config.max_position_embeddings, cache.capacity * config.page_size)
        return Machine(
            model=self.model,
            cache=cache,
            store=PromptStore(cache, config.share),
            tables=Tables(config.max_batch, self.device),
            buffers=Buffers(rows, places, cache.pages_for(longest), cache.scratch, self.device),
            graphs=self.graphs,
            rounding=rounding,
            read_tokens=config.read_tokens,
            row_multiple=self.row_multiple,
            lags=self.device.type == "cuda",
            noise="inverse" if self.speculation is None else "race",
            speculation=self.speculation,
        )

    def generate(
        self, requests: Iterable[Request | None], on_step: OnStep | None = None, on_partial: OnPartial | None = None
    ) -> Iterator[Result]:
        """Yield every sample of every request as it finishes; failures come as results with an `error`.

        `requests` is read lazily, a request at a time as room appears; None in it says that there is none now, and it
        is asked again at the next step. When nothing is in flight then, the run ends. `on_step` is called after every
        step, and `on_partial` with samples under way, as often as their requests ask (`Request.partial_every`).

        Raises:
            RuntimeError: the engine is already generating, or pages leaked.
        """
        if self._run is not None:
            raise RuntimeError("engine: already generating; finish or close the first run before starting another")
        moved, changed = self._weights.look()
        if moved:
            self.graphs.forget()
        if changed:
            self.clear()
        self._run = Run(self._machine, on_step, on_partial)
        try:
            yield from self._run.results(requests, self.refusal)
        finally:
            self._run = None
            self.check()

    def clear(self) -> None:
        """Forget the prompts and answers that were kept for later ones; done by itself where weights have changed.

        Raises:
            RuntimeError: the engine is generating.
        """
        if self._run is not None:
            raise RuntimeError("engine: generating; finish or close the run before clearing")
        self._machine.store.clear()

    def check(self) -> None:
        """Raise RuntimeError, naming what leaked, unless each page is free or kept for later prompts."""
        if self._run is None:
            self.cache.check(self._machine.store.kept)

    def cancel(self, request_id: str) -> None:
        """Let every sample of a request go at the next step; they are yielded with finish "cancelled" and an `error`.

        From any thread. Does nothing where the request is unknown, or nothing is being generated.
        """
        if (run := self._run) is not None:
            run.cancel(request_id)

    def refusal(self, request: Request) -> str | None:
        """Why `request` cannot run on this engine, in one line, or None."""
        if (problem := request.problem()) is not None:
            return problem
        longest = self.model.decoder.config.max_position_embeddings
        for prompt in (request.prompt, request.unconditional or ()):
            for segment in prompt:
                if (problem := self._bad_segment(segment)) is not None:
                    return problem
            total = sum(map(len, prompt)) + request.plan.most_steps
            if total > longest:
                return f"prompt and answer are {total} tokens long, the model takes {longest}"
        if request.plan.highest_id >= self.vocab_size:
            return f"the plan holds id {request.plan.highest_id}, the vocabulary ends at {self.vocab_size - 1}"
        return None

    def _bad_segment(self, segment: Segment) -> str | None:
        if segment.features is not None:
            if segment.features.shape[1] != self.hidden_size:
                return f"features are {segment.features.shape[1]} wide, the model's hidden size is {self.hidden_size}"
        elif segment.ids and not 0 <= min(segment.ids) <= max(segment.ids) < self.vocab_size:
            bad = next(i for i in segment.ids if not 0 <= i < self.vocab_size)
            return f"the prompt holds id {bad}, allowed are 0 to {self.vocab_size - 1}"
        return None
