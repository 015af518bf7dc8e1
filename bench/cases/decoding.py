"""Decoding: whole decoder layers, and the projections in them that run as one."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench.case import Case
from illume_fast.bench.checks import near
from illume_fast.bench.inputs import randn
from illume_fast.model.attention import PagedAttention
from illume_fast.model.config import DecoderConfig
from illume_fast.model.decoder import DecoderLayer
from illume_fast.model.layers import rotary_table
from illume_fast.ops import qkv_linear, swiglu_linear, use_backend

PAGE = 16
SHAPES = {
    "demo model": DecoderConfig(
        vocab_size=16,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        qkv_bias=True,
    ),
    "Qwen2.5 0.5B": DecoderConfig(
        vocab_size=16,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=1,
        num_attention_heads=14,
        num_key_value_heads=2,
        qkv_bias=True,
    ),
}


def _hugging_face(
    layer: DecoderLayer, config: DecoderConfig, x: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor]
) -> Callable[[], Tensor] | None:
    """A call of Qwen2's layer with the same weights, and a static cache of k and v [B, Hkv, L, D] with one place more.

    None where transformers is not installed.
    """
    if find_spec("transformers") is None:
        return None
    from transformers import Qwen2Config, StaticCache
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    theirs = Qwen2Config(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        attn_implementation="sdpa",
    )
    other = Qwen2DecoderLayer(theirs, 0).to(k.device, k.dtype).eval()
    other.load_state_dict(layer.state_dict())
    length = k.shape[2]
    cache = StaticCache(theirs, max_cache_len=length + 1)
    cache.update(k, v, 0)
    cos, sin = (torch.cat((half, half), -1)[:, None].to(x.dtype) for half in angles)

    def call() -> Tensor:
        with torch.inference_mode():
            cache.layers[0].cumulative_length.fill_(length)
            return other(x[:, None], past_key_values=cache, position_embeddings=(cos, sin))[:, 0]

    return call


def _decoder_layer(shape: str, rows: int, length: int, dtype: torch.dtype) -> Case:
    """One token for each of `rows` sequences that have `length` tokens. The peer's keys and values have no pages."""
    config = SHAPES[shape]
    heads, size = config.num_key_value_heads, config.head_size

    def make() -> tuple[Tensor, ...]:
        k, v = (randn(rows, heads, length, size, dtype=dtype, seed=seed) for seed in (1, 2))
        return randn(rows, config.hidden_size, dtype=dtype, seed=0), k, v

    def prepare(x: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
        torch.manual_seed(0)
        layer = DecoderLayer(config, 0)
        for weight in layer.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        layer = layer.to(x.device, dtype).eval().requires_grad_(False)
        pages = -(-(length + 1) // PAGE)
        order = torch.randperm(rows * pages, generator=torch.Generator().manual_seed(3))
        table = order.view(rows, pages).int().to(x.device)
        k_pages, v_pages = (_in_pages(y, table) for y in (k, v))
        positions = torch.full((rows,), length, device=x.device)
        attend = PagedAttention(k_pages, v_pages, table, None, positions)
        angles = rotary_table(positions, size, config.rope_theta)
        return layer, attend, x, angles, _hugging_face(layer, config, x, k, v, angles)

    def ours(layer: DecoderLayer, attend: PagedAttention, x: Tensor, angles: Any, theirs: Any) -> Tensor:
        with torch.inference_mode():
            branch, residual = layer(x, None, *angles, attend)
            return branch + residual

    def check(result: Tensor, layer: DecoderLayer, attend: PagedAttention, x: Tensor, angles: Any, theirs: Any) -> None:
        pages = replace(attend, k_pages=attend.k_pages.double(), v_pages=attend.v_pages.double())
        with use_backend("reference"):
            exact = ours(deepcopy(layer).double(), pages, x.double(), [a.double() for a in angles], None)
        near("decoder_layer", result, exact, 1e-4 if dtype == torch.float32 else 4e-2)

    there = find_spec("transformers") is not None
    products = config.hidden_size * (2 * (config.num_attention_heads + heads) * size + 3 * config.intermediate_size)
    cached = 2 * rows * (length + 1) * heads * size
    return Case(
        op="decoder_layer",
        name=f"{shape}, {rows} rows of {length}, {dtype}",
        make=make,
        prepare=prepare,
        ours=ours,
        peers={"Hugging Face, static cache": lambda *arguments: arguments[-1]()} if there else {},
        check=check,
        bytes=(products + cached) * dtype.itemsize,
        operations=2 * rows * products + 4 * rows * (length + 1) * config.num_attention_heads * size,
        rounded=dtype == torch.bfloat16,
    )


def _in_pages(x: Tensor, table: Tensor) -> Tensor:
    """[B, Hkv, L, D] -> [layers = 1, pages, page_size, Hkv, D]."""
    rows, pages = table.shape
    padded = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, pages * PAGE - x.shape[2]))
    out = x.new_empty(rows * pages, PAGE, *padded.shape[2:])
    out[table.flatten().long()] = padded.reshape(out.shape)
    return out[None]


def _qkv(rows: int, shape: str, dtype: torch.dtype) -> Case:
    config = SHAPES[shape]
    widths = [n * config.head_size for n in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]

    def make() -> tuple[Tensor, ...]:
        x = randn(rows, config.hidden_size, dtype=dtype, seed=0)
        weights = [randn(n, config.hidden_size, dtype=dtype, seed=i) for i, n in enumerate(widths)]
        return x, *weights, *(randn(n, dtype=dtype, seed=i) for i, n in enumerate(widths))

    def apart(x: Tensor, *layers: Tensor) -> list[Tensor]:
        return [F.linear(x, weight, bias) for weight, bias in zip(layers[:3], layers[3:], strict=True)]

    def check(result: tuple[Tensor, ...], *arguments: Tensor) -> None:
        for actual, expected in zip(result, apart(*(a.double() for a in arguments)), strict=True):
            near("qkv_linear", actual, expected)

    return Case(
        op="qkv_linear",
        name=f"{shape}, {rows} rows, {dtype}",
        make=make,
        ours=qkv_linear,
        peers={"three torch linears": apart},
        check=check,
        bytes=sum(widths) * config.hidden_size * dtype.itemsize,
        operations=2 * rows * sum(widths) * config.hidden_size,
        rounded=dtype == torch.bfloat16,
    )


def _swiglu_linear(rows: int, shape: str, dtype: torch.dtype) -> Case:
    config = SHAPES[shape]
    width, inner = config.hidden_size, config.intermediate_size

    def make() -> tuple[Tensor, ...]:
        x = randn(rows, width, dtype=dtype, seed=0)
        gate, up = (randn(inner, width, dtype=torch.float32, seed=seed) / width**0.5 for seed in (1, 2))
        return x, gate.to(dtype), up.to(dtype)

    def plain(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(F.linear(x, gate)) * F.linear(x, up)

    def check(result: Tensor, *arguments: Tensor) -> None:
        near("swiglu_linear", result, plain(*(a.double() for a in arguments)), 1e-5 if dtype == torch.float32 else 3e-2)

    return Case(
        op="swiglu_linear",
        name=f"{shape}, {rows} rows, {dtype}",
        make=make,
        ours=swiglu_linear,
        peers={"torch": plain, "torch.compile": torch.compile(plain)},
        check=check,
        bytes=2 * inner * width * dtype.itemsize,
        operations=4 * rows * inner * width,
        rounded=dtype == torch.bfloat16,
    )


CASES = [
    _decoder_layer("demo model", 1, 160, torch.float32),
    _decoder_layer("demo model", 64, 160, torch.float32),
    _decoder_layer("Qwen2.5 0.5B", 2, 320, torch.bfloat16),
    _decoder_layer("Qwen2.5 0.5B", 32, 320, torch.bfloat16),
    _qkv(2, "Qwen2.5 0.5B", torch.bfloat16),
    _qkv(64, "demo model", torch.float32),
    _swiglu_linear(2, "Qwen2.5 0.5B", torch.bfloat16),
    _swiglu_linear(32, "Qwen2.5 0.5B", torch.bfloat16),
    _swiglu_linear(64, "demo model", torch.float32),
]
