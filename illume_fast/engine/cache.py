"""The paged key-value cache, and the prompts in it that streams share.

Every prompt is held once. A stream (one branch of one sample) shares the prompt's full pages and gets its own pages
for the rest of its length, which is known beforehand; so nothing is allocated while tokens are drawn. Prompts that
begin alike, page by page, share those pages too: `n` samples of a prompt, the unconditional prompt of all requests
and a source picture read by both branches are all found by content.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from illume_fast.engine.request import DecoderShape, Segment
from illume_fast.kernels.paging import OutOfPages, PagePool

Atoms = tuple[Hashable, ...]


def atoms_of(segments: Sequence[Segment]) -> Atoms:
    """What stands at each position of a prompt, comparable: an id, or (key, index) of a feature."""
    atoms: list[Hashable] = []
    for segment in segments:
        atoms.extend(segment.ids if segment.features is None else ((segment.key, i) for i in range(len(segment))))
    return tuple(atoms)


@dataclass(eq=False)
class Prompt:
    """A prompt in the cache: its pages, how much of it has been read, and its last hidden state once it all has."""

    segments: tuple[Segment, ...]
    atoms: Atoms
    sequence: int
    read: int
    users: int = 0
    last_hidden: Tensor | None = None
    nodes: list[tuple[int, Atoms]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def ready(self) -> bool:
        return self.last_hidden is not None


class PagedCache:
    """Keys and values of all layers, [layers, pages, page_size, Hkv, D], and the pool that deals out the pages.

    Page `scratch` belongs to nobody: rows that only fill up a batch write there.
    """

    def __init__(self, shape: DecoderShape, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device):
        size = (shape.num_hidden_layers, num_pages, page_size, shape.num_key_value_heads, shape.head_size)
        self.k = _zeros(size, dtype, device)
        self.v = _zeros(size, dtype, device)
        self.page_size = page_size
        self.pool = PagePool(num_pages, page_size)
        self._scratch = self.pool.new()
        self.pool.append(self._scratch, page_size)
        self.scratch: int = self.pool.pages(self._scratch)[0]
        self.capacity = num_pages - 1

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy page contents (source, destination) in every layer."""
        if pairs:
            source, target = torch.tensor(pairs, device=self.k.device).T
            self.k[:, target] = self.k[:, source]
            self.v[:, target] = self.v[:, source]

    def check(self, kept: Sequence[int] = ()) -> None:
        """Raise RuntimeError, naming what leaked, unless every page came back but the scratch page and those `kept`."""
        self.pool.check(live=[self._scratch, *kept])


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, since a kernel may load, and mask, what nobody wrote yet; on the CPU memory that is taken when written."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8)).view(dtype).view(size)


class PromptStore:
    """Finds prompts by content; forgets those nobody uses when their pages are needed, the longest unused first.

    Without `share` each is held for itself, and forgotten with its last user.
    """

    def __init__(self, cache: PagedCache, share: bool = True) -> None:
        self.cache = cache
        self._share = share
        self._serial = itertools.count()
        self._prompts: dict[Atoms, Prompt] = {}
        self._idle: OrderedDict[int, Prompt] = OrderedDict()
        # a tree over full pages: (parent node, atoms of the page) -> node, and who holds each node's page
        self._children: dict[tuple[int, Atoms], int] = {}
        self._holders: dict[int, list[Prompt]] = {0: []}
        self._next_node = 1

    def acquire(self, segments: Sequence[Segment]) -> tuple[Prompt, bool]:
        """The prompt with this content, and whether it was just made and still has to be read.

        Raises:
            OutOfPages: there is no room even after forgetting every idle prompt; nothing is changed then.
        """
        atoms = atoms_of(segments)
        if not self._share:
            atoms = ((next(self._serial), atoms[0]), *atoms[1:])  # like no other's
        prompt = self._prompts.get(atoms)
        fresh = prompt is None
        if prompt is None:
            prompt = self._make(tuple(segments), atoms)
        prompt.users += 1
        self._idle.pop(prompt.sequence, None)
        return prompt, fresh

    def release(self, prompt: Prompt) -> None:
        """One user less; an unused prompt stays until its pages are needed.

        One that is not read yet stays until then at least: others may have taken its pages for read.
        """
        prompt.users -= 1
        if prompt.users == 0 and prompt.ready:
            self._rest(prompt)

    def has_read(self, prompt: Prompt, last_hidden: Tensor) -> None:
        """The whole prompt stands in the cache; `last_hidden` [H] draws the first token of its answers."""
        prompt.last_hidden = last_hidden
        if prompt.users == 0:
            self._rest(prompt)

    def keep(self, stream: int, atoms: Atoms) -> None:
        """Let prompts that begin with `atoms` find them in the pages of `stream`, also after it has ended."""
        if not self._share:
            return
        pool = self.cache.pool
        sequence = pool.share_prefix(stream, len(atoms) // self.cache.page_size * self.cache.page_size)
        kept = Prompt((), atoms, sequence, read=len(atoms))
        self._register(kept)
        self._idle[sequence] = kept

    @property
    def kept(self) -> list[int]:
        """Sequences of the prompts and answers that nobody uses."""
        return list(self._idle)

    def take_back(self, prompt: Prompt) -> None:
        """Forget a prompt that was made and is not going to be read."""
        if prompt.users == 0:
            self._forget(prompt)

    def fork(self, prompt: Prompt, extra: int) -> tuple[int, list[tuple[int, int]]]:
        """A stream of `extra` tokens after the prompt: its sequence, and the pages to copy once the prompt is read.

        Raises:
            OutOfPages: as `acquire`.
        """
        pool, shared = self.cache.pool, len(prompt) // self.cache.page_size
        self._make_room(self.cache.pages_for(len(prompt) + extra) - shared)
        stream = pool.share_prefix(prompt.sequence, shared * self.cache.page_size)
        pool.append(stream, len(prompt) + extra - shared * self.cache.page_size)
        if len(prompt) % self.cache.page_size == 0:
            return stream, []
        return stream, [(pool.pages(prompt.sequence)[shared], pool.pages(stream)[shared])]

    def clear(self) -> None:
        """Forget every prompt and answer that nobody uses."""
        self.forget_unread()
        for prompt in list(self._idle.values()):
            self._forget(prompt)

    def forget_unread(self) -> None:
        """Forget the prompts that nobody uses and nobody has read to the end."""
        for prompt in [p for p in self._prompts.values() if p.users == 0 and not p.ready]:
            self._forget(prompt)

    def _rest(self, prompt: Prompt) -> None:
        if self._share:
            self._idle[prompt.sequence] = prompt
        else:
            self._forget(prompt)

    def _make(self, segments: tuple[Segment, ...], atoms: Atoms) -> Prompt:
        path, holder = self._walk(atoms)
        # the last token is always read anew: its hidden state draws the first token of the answer
        shared = min(len(path), (len(atoms) - 1) // self.cache.page_size)
        if holder is not None:
            holder.users += 1  # making room must not forget it
        try:
            self._make_room(self.cache.pages_for(len(atoms)) - shared)
        finally:
            if holder is not None:
                holder.users -= 1
        pool, tokens = self.cache.pool, shared * self.cache.page_size
        sequence = pool.share_prefix(holder.sequence, tokens) if holder is not None and shared else pool.new()
        pool.append(sequence, len(atoms) - (tokens if shared else 0))
        prompt = Prompt(segments, atoms, sequence, read=tokens)
        self._prompts[atoms] = prompt
        self._register(prompt)
        return prompt

    def _walk(self, atoms: Atoms) -> tuple[list[int], Prompt | None]:
        """The nodes of the longest run of known full pages, and a prompt that holds them all."""
        path: list[int] = []
        holder, node, size = None, 0, self.cache.page_size
        for start in range(0, len(atoms) - size + 1, size):
            child = self._children.get((node, atoms[start : start + size]))
            if child is None:
                break
            path.append(child)
            node, holder = child, self._holders[child][0]
        return path, holder

    def _register(self, prompt: Prompt) -> None:
        node, size = 0, self.cache.page_size
        for start in range(0, len(prompt.atoms) - size + 1, size):
            key = (node, prompt.atoms[start : start + size])
            if key not in self._children:
                self._children[key] = self._next_node
                self._holders[self._next_node] = []
                self._next_node += 1
            node = self._children[key]
            self._holders[node].append(prompt)
            prompt.nodes.append(key)

    def _make_room(self, pages: int) -> None:
        pool = self.cache.pool
        for prompt in list(self._idle.values()):
            if pool.num_free >= pages:
                return
            if prompt.users == 0:
                self._forget(prompt)
        if pool.num_free < pages:
            raise OutOfPages(f"{pages} pages needed, {pool.num_free} free")

    def _forget(self, prompt: Prompt) -> None:
        self.cache.pool.free(prompt.sequence)
        if self._prompts.get(prompt.atoms) is prompt:
            del self._prompts[prompt.atoms]
        self._idle.pop(prompt.sequence, None)
        for key in prompt.nodes:
            holders = self._holders[self._children[key]]
            holders.remove(prompt)
            if not holders:
                del self._holders[self._children.pop(key)]
