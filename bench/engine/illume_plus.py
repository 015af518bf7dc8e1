"""Whole pictures of 256 x 256 by decoders of ILLUME+'s shapes with random weights: for a GPU, or tiny to rehearse."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from illume_fast.bench.clock import Turn
from illume_fast.bench.engine import guided, hugging_face
from illume_fast.bench.engine.contest import Contest, once
from illume_fast.bench.engine.floor import decode_step, reading
from illume_fast.data.sizes import image_grid
from illume_fast.engine import Engine, SamplingParams, SamplingSet
from illume_fast.model.config import DecoderConfig
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.presets import illume_plus_3b, illume_plus_7b
from illume_fast.tasks import picture_plan

SAMPLING = SamplingParams((SamplingSet(top_k=2048), SamplingSet(top_k=6144)), guidance=3.0)
PROMPT, UNCONDITIONAL = 64, 16
_SIDE = 256
_EAGER, _COMPILED = "transformers, static cache", "transformers compiled, static cache"
_PLAIN = "without guessing"
_AHEAD = 4


def pictures(
    name: str,
    preset: CheckpointConfig,
    batch: int,
    peers: tuple[str, ...],
    *,
    decoder: DecoderConfig | None = None,
    side: int = _SIDE,
    ahead: int = 1,
    guidance: float = SAMPLING.guidance,
) -> Contest:
    """`batch` pictures of `side` x `side`, drawn together in bfloat16; `decoder` takes the preset's place.

    Steps guess `ahead` draws; the floor is then that of steps which keep them all.
    """
    decoder = decoder or preset.model.decoder
    vocab = preset.model.vocab
    plan = picture_plan(vocab, image_grid((side, side), preset.vision_tokenizer))
    steps = len(plan.draws)
    rows = sum(plan.sites[s].hi - plan.sites[s].lo for s in plan.site[plan.draws].tolist()) / steps
    branches = (PROMPT, UNCONDITIONAL) if guidance != 1 else (PROMPT,)
    contexts = [length + len(plan) / 2 for length in branches]
    work = decode_step(decoder, contexts, batch=batch, head_rows=rows, itemsize=2) * steps
    work = work.read_once_in(ahead)
    work += reading(decoder, [PROMPT] * batch + [*branches[1:]], itemsize=2)
    make = guided.make(
        decoder,
        torch.bfloat16,
        plan,
        replace(SAMPLING, guidance=guidance),
        batch=batch,
        prompt=PROMPT,
        unconditional=UNCONDITIONAL,
        speculative=ahead,
        speculative_tokens=ahead * batch * len(branches),
    )
    what = f"ILLUME+ {name}, {side} x {side}"
    if ahead > 1:
        what += f", guidance {guidance:g}, {ahead} draws a step"
    return Contest(
        op="engine",
        name=f"{what}, batch {batch}, torch.bfloat16",
        make=make,
        check=guided.check,
        ours=_ours,
        peers={who: _PEERS[who] for who in peers},
        notes=_replayed,
        pictures=batch,
        rounded=True,
        fewest=2,
        scale=(what, "pictures together", batch),
        **work.whole,
    )


def _ours(made: guided.Guided) -> Turn:
    return once(made.draw_anew)


def _theirs(compiled: bool) -> Any:
    def peer(made: guided.Guided, stack: ExitStack) -> Turn:
        model = hugging_face.mirror(made.model)

        def draw() -> None:
            hugging_face.generate(
                model, made.rows, hugging_face.Draw(made.plan, made.sampling), compiled=compiled
            ).cpu()

        return once(draw)

    return peer


def _without_guessing(made: guided.Guided, stack: ExitStack) -> Turn:
    engine = Engine(made.model, replace(made.engine.config, speculative=None))
    return once(replace(made, engine=engine).draw)


_PEERS: Mapping[str, Any] = {_EAGER: _theirs(False), _COMPILED: _theirs(True), _PLAIN: _without_guessing}


def _replayed(made: guided.Guided) -> dict[str, Any]:
    """How many steps were replays of a recorded one, and what they kept of their guesses. RuntimeError where none was
    replayed, or none guessed that should have."""
    replays, speculation = made.engine.graphs.replays, made.engine.speculation
    if not replays:
        raise RuntimeError(f"engine: no recorded step was replayed: {made.engine.graphs.refusal}")
    if speculation is None:
        return {"graph_replays": replays}
    if speculation.accepted_per_step is None:
        raise RuntimeError("engine: no step guessed")
    return {"graph_replays": replays, "accepted_per_step": speculation.accepted_per_step}


_TINY = DecoderConfig(
    vocab_size=283175,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
_BOTH = _EAGER, _COMPILED
# in order of worth: time may run out
CONTESTS = [
    pictures("7B", illume_plus_7b(), 64, _BOTH),
    pictures("7B", illume_plus_7b(), 1, _BOTH),
    *(
        pictures("7B", illume_plus_7b(), batch, (_PLAIN,), ahead=_AHEAD, guidance=guidance)
        for guidance in (3.0, 1.0)
        for batch in (1, 2)
    ),
    pictures("7B", illume_plus_7b(), 256, (_EAGER,)),
    pictures("7B", illume_plus_7b(), 16, (_EAGER,)),
    pictures("7B", illume_plus_7b(), 4, ()),
    pictures("3B", illume_plus_3b(), 64, (_EAGER,)),
    pictures("3B", illume_plus_3b(), 1, (_EAGER,)),
    pictures("3B", illume_plus_3b(), 256, (_EAGER,)),
    pictures("3B", illume_plus_3b(), 16, ()),
    pictures("3B", illume_plus_3b(), 4, ()),
]
REHEARSAL = [
    *(pictures("tiny", illume_plus_7b(), batch, _BOTH, decoder=_TINY, side=64) for batch in (2, 1)),
    *(
        pictures("tiny", illume_plus_7b(), batch, (_PLAIN,), decoder=_TINY, side=64, ahead=_AHEAD, guidance=guidance)
        for guidance in (3.0, 1.0)
        for batch in (1, 2)
    ),
]
