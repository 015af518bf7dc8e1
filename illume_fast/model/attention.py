"""Attention of the decoder: the projections, and the ways in which queries meet keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.config import DecoderConfig
from illume_fast.model.layers import Linear, RMSNorm, are_plain, joined, once_in_autocast, runs_ops
from illume_fast.ops.decode_attention import decode_attention
from illume_fast.ops.linear import linear
from illume_fast.ops.qkv_linear import qkv_linear
from illume_fast.ops.rope import rope

_PRODUCTS_LIMIT = 1024


class Attend(Protocol):
    """How queries meet keys in layer `layer`: q [..., T, Hq, D], k and v [..., T, Hkv, D] -> [..., T, Hq, D].

    q and k come as they were projected; `cos` and `sin` [..., T, D / 2] are to turn them (`rope`).
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor: ...


class CausalAttention:
    """Whole sequences [B, T] at once, each token seeing itself and what precedes it.

    `keep` (bool [B, T]) hides padding keys; only padding to the left needs it, since padding to the right is never
    seen. A token that could see nothing sees itself, so that padding stays finite.
    """

    def __init__(self, keep: Tensor | None = None) -> None:
        self.mask = None if keep is None else _causal_mask(keep)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rope(q, k, cos, sin)
        return self.turned(q, k, v)

    def turned(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same where q and k have been turned."""
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        if self.mask is None and _prefers_products(q):
            return _causal_products(q, k, v).transpose(-3, -2)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.mask is None, enable_gqa=q.shape[-3] != k.shape[-3]
        )
        return out.transpose(-3, -2)


@dataclass(frozen=True)
class SeveralBatches:
    """The tokens of several batches of sequences one after the other, [sum of B * T]: each attends to its own sequence.

    What works on single tokens then runs once for all batches, though their sequences differ in length.
    """

    shapes: Sequence[tuple[int, int]]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rope(q, k, cos, sin)
        sizes = [batch * length for batch, length in self.shapes]
        batches = zip(self.shapes, *(x.split(sizes) for x in (q, k, v)), strict=True)
        attend = CausalAttention()
        outputs = []
        for shape, *qkv in batches:
            q, k, v = (x.unflatten(0, shape) for x in qkv)
            outputs.append(attend.turned(q, k, v).flatten(0, 1))
        return torch.cat(outputs)


def _prefers_products(q: Tensor) -> bool:
    # measured: torch's fused bfloat16 attention on the CPU, forward and backward, takes 4 times as long as plain
    # products at 130 tokens and twice as long at 512
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= _PRODUCTS_LIMIT


def _causal_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [..., Hq, T, D], k and v [..., Hkv, T, D] -> [..., Hq, T, D]; queries that share keys are stacked."""
    group, length = q.shape[-3] // k.shape[-3], q.shape[-2]
    bias = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1).repeat(group, 1)
    keys, values = (x.reshape(-1, length, x.shape[-1]) for x in (k, v))
    queries = q.reshape(keys.shape[0], group * length, q.shape[-1])
    scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), values).reshape(q.shape)


def _causal_mask(keep: Tensor) -> Tensor:
    length = keep.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=keep.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=keep.device)
    return (causal & keep[:, None, None, :].bool()) | own


@dataclass(frozen=True)
class PagedAttention:
    """Flat tokens [T] of several sequences over a paged cache; appends their keys and values, then attends.

    Token t stands at `positions[t]` of the sequence in row `rows[t]` of `page_table` (int32 [rows, max_pages]), or in
    row t where `rows` is None: each row then brings one token. `k_pages` and `v_pages` are [layers, pages, page_size,
    Hkv, D].
    """

    k_pages: Tensor
    v_pages: Tensor
    page_table: Tensor
    rows: Tensor | None
    positions: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        k_pages, v_pages = self.k_pages[layer], self.v_pages[layer]
        scale = q.shape[-1] ** -0.5
        table, rows = self.page_table, self.rows
        return decode_attention(q, k, v, cos, sin, k_pages, v_pages, table, self.positions, scale, rows)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions, optional q/k/v biases and optional norms on q and k."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_size
        query, key = config.num_attention_heads * head, config.num_key_value_heads * head
        self.head_size = head
        self.q_proj = Linear(width, query, bias=config.qkv_bias)
        self.k_proj = Linear(width, key, bias=config.qkv_bias)
        self.v_proj = Linear(width, key, bias=config.qkv_bias)
        self.o_proj = Linear(query, width, bias=False)
        self.q_norm = RMSNorm(head, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        """[..., T, H] -> [..., T, H]."""
        q, k, v = (y.unflatten(-1, (-1, self.head_size)) for y in self._project(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return self.o_proj(attend(layer, q, k, v, cos, sin).flatten(-2))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        if runs_ops(x) and are_plain(q, k, v):
            every = joined((q.weight, k.weight, v.weight))
            bias = None if q.bias is None or every is None else joined((q.bias, k.bias, v.bias))
            if every is not None and (bias is None) == (q.bias is None):
                sizes = len(q.weight), len(k.weight), len(v.weight)
                return linear(x, every, bias).split(sizes, -1)
            return qkv_linear(x, q.weight, k.weight, v.weight, q.bias, k.bias, v.bias)
        x = once_in_autocast(x)
        return q(x), k(x), v(x)
