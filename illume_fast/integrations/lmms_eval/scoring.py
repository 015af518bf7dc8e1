"""How likely given words are as an answer, by one pass of the model over several questions."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from illume_fast.data.errors import InputError
from illume_fast.pipeline import IllumePipeline
from illume_fast.tasks import Ask, Converse


@torch.inference_mode()
def losses(
    pipeline: IllumePipeline, asked: Iterable[tuple[Ask | Converse, str]], batch_size: int = 1
) -> list[tuple[float, bool]]:
    """Of each question and answer, the mean cross entropy of the answer's tokens, and whether greedy decoding begins
    with them.

    The answer stands at the beginning of the assistant's turn, without white space before it and without the turn's
    end. Its rivals are the words of the vocabulary, as when the model answers.

    Raises:
        InputError: a question cannot be asked, or its answer has no tokens or is too long.
    """
    found: list[tuple[float, bool]] = []
    left = iter(asked)
    while rows := [_row(pipeline, ask, answer) for ask, answer in islice(left, batch_size)]:
        found += _losses(pipeline, rows)
    return found


def _row(pipeline: IllumePipeline, ask: Ask | Converse, answer: str) -> tuple[Tensor, Tensor]:
    """Embeddings [T, H] of prompt and answer, and the answer's ids int64 [L]."""
    (request,) = pipeline.tasks.requests(ask)
    ids = pipeline.tasks.chat.text.encode(answer.lstrip())
    if not ids:
        raise InputError(f"{request.id}: the answer to be scored has no words: {answer!r}")
    model = pipeline.checkpoint.model
    device = model.head_weight.device
    wanted = torch.tensor(ids, device=device)
    parts = [
        model.embed(torch.tensor(segment.ids, device=device)) if segment.features is None else segment.features
        for segment in request.prompt
    ]
    row = torch.cat([*parts, model.embed(wanted)])
    longest = model.decoder.config.max_position_embeddings
    if len(row) > longest:
        raise InputError(f"{request.id}: prompt and answer are {len(row)} tokens long, the model takes {longest}")
    return row, wanted


def _losses(pipeline: IllumePipeline, rows: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, bool]]:
    model = pipeline.checkpoint.model
    hidden = model.hidden(pad_sequence([row for row, _ in rows], batch_first=True))
    words = model.head_weight[: pipeline.tasks.vocab.text_size]
    found = []
    for states, (row, wanted) in zip(hidden, rows, strict=True):
        # the token at a place is foretold by the state before it
        logits = F.linear(states[len(row) - len(wanted) - 1 : len(row) - 1], words).float()
        greedy = bool((logits.argmax(-1) == wanted).all())
        found.append((F.cross_entropy(logits, wanted).item(), greedy))
    return found
