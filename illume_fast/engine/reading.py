"""Prompts to the tensors of one reading pass: chunks of several prompts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.cache import PagedCache
from illume_fast.engine.request import GenerativeModel
from illume_fast.engine.scheduler import Chunk
from illume_fast.engine.transfer import send, sent
from illume_fast.model.attention import PagedAttention


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass over chunks of prompts: embeddings [T, H], positions, how they see the cache, and each chunk's end."""

    embeds: Tensor
    positions: Tensor
    attend: PagedAttention
    last: list[int]


def read_batch(chunks: Sequence[Chunk], cache: PagedCache, model: GenerativeModel, row_multiple: int) -> Reading:
    """Lay chunks of prompts side by side."""
    device = cache.k.device
    lengths = np.array([chunk.stop - chunk.start for chunk in chunks])
    tokens = int(lengths.sum())
    total = _round_up(tokens, row_multiple)
    rows = np.full(total, len(chunks), np.int32)
    rows[:tokens] = np.repeat(np.arange(len(chunks)), lengths)
    positions = _positions(tokens, total, cache.page_size)
    positions[:tokens] = np.concatenate([np.arange(chunk.start, chunk.stop) for chunk in chunks])
    held = [np.array(cache.pool.pages(chunk.prompt.sequence), np.int32) for chunk in chunks]
    where = sent(positions, device)
    table = sent(_page_table(held, cache.scratch, 1), device)
    attend = PagedAttention(cache.k, cache.v, table, sent(rows, device), where)
    return Reading(_embed(chunks, model, total, device), where, attend, (np.cumsum(lengths) - 1).tolist())


def _embed(chunks: Sequence[Chunk], model: GenerativeModel, total: int, device: torch.device) -> Tensor:
    ids = np.zeros(total, np.int64)
    features: list[tuple[int, Tensor]] = []
    at = 0
    for chunk in chunks:
        begin = 0
        for segment in chunk.prompt.segments:
            a, b = max(chunk.start - begin, 0), min(chunk.stop - begin, len(segment))
            begin += len(segment)
            if a >= b:
                continue
            if segment.features is None:
                ids[at : at + b - a] = segment.ids[a:b]
            else:
                features.append((at, segment.features[a:b]))
            at += b - a
    embeds = model.embed(sent(ids, device))
    for start, values in features:
        send(values.to(embeds.dtype), embeds[start : start + len(values)])
    return embeds


def _page_table(held: Sequence[NDArray[np.int32]], scratch: int, filler: int) -> NDArray[np.int32]:
    """int32 [len(held) + filler, max pages]: unused places and the filler rows name the scratch page."""
    table = np.full((len(held) + filler, max(map(len, held))), scratch, np.int32)
    for row, pages in zip(table, held, strict=False):
        row[: len(pages)] = pages
    return table


def _positions(tokens: int, total: int, page_size: int) -> NDArray[np.int64]:
    """Room for `tokens` positions, then those of the filler, all on one page."""
    return np.arange(-tokens, total - tokens) % page_size


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
