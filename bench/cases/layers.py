"""What a decoder layer does between its matrix products."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from illume_fast.bench import libraries
from illume_fast.bench.case import Case
from illume_fast.bench.checks import near
from illume_fast.bench.inputs import randn
from illume_fast.ops import add_rms_norm, gelu, paged_attention, rms_norm, rope, spatial_norm, swiglu, use_backend

EPS = 1e-6
PAGE = 16


def _agrees(op: Callable[..., Any]) -> Callable[..., None]:
    """Every result is that of the reference in float64."""

    def check(result: Any, *inputs: Tensor) -> None:
        with use_backend("reference"):
            expected = op(*(x.double() for x in inputs))
        for a, e in zip(*((r if isinstance(r, tuple) else (r,)) for r in (result, expected)), strict=True):
            near("bench", a, e)

    return check


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of `function`, compiled when first called."""
    return torch.compile(function, dynamic=False)


def _hugging_face_norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def _rms_norm(rows: int, width: int, dtype: torch.dtype) -> Case:
    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, EPS)

    return Case(
        op="rms_norm",
        name=f"{rows} x {width}, {dtype}",
        make=lambda: (randn(rows, width, dtype=dtype), 1 + 0.1 * randn(width, dtype=dtype)),
        ours=ours,
        peers={
            "F.rms_norm": lambda x, weight: F.rms_norm(x, (width,), weight, EPS),
            "Hugging Face": _hugging_face_norm,
            "torch.compile": _compiled(_hugging_face_norm),
        },
        gpu_peers=libraries.rms_norm(EPS),
        check=_agrees(ours),
        bytes=2 * rows * width * dtype.itemsize,
    )


def _add_rms_norm(rows: int, width: int, dtype: torch.dtype) -> Case:
    def ours(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, residual, weight, EPS)

    def hugging_face(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return _hugging_face_norm(total, weight), total

    def check(result: tuple[Tensor, Tensor], x: Tensor, residual: Tensor, weight: Tensor) -> None:
        # the sum is rounded before it is normalised
        if not torch.equal(result[1], x + residual):
            raise RuntimeError("add_rms_norm: the sum differs from x + residual")
        with use_backend("reference"):
            near("add_rms_norm", result[0], rms_norm(result[1].double(), weight.double(), EPS))

    return Case(
        op="add_rms_norm",
        name=f"{rows} x {width}, {dtype}",
        make=lambda: (*(randn(rows, width, dtype=dtype, seed=s) for s in (0, 1)), randn(width, dtype=dtype)),
        ours=ours,
        peers={"Hugging Face": hugging_face, "torch.compile": _compiled(hugging_face)},
        gpu_peers=libraries.add_rms_norm(EPS),
        check=check,
        bytes=4 * rows * width * dtype.itemsize,
    )


def _rope(tokens: int, query_heads: int, key_heads: int, size: int, dtype: torch.dtype) -> Case:
    def make() -> tuple[Tensor, ...]:
        angles = torch.rand(tokens, size // 2, generator=torch.Generator().manual_seed(2)) * 6
        q, k = (randn(tokens, heads, size, dtype=dtype, seed=heads) for heads in (query_heads, key_heads))
        return q, k, angles.cos(), angles.sin()

    def hugging_face(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (torch.cat((x, x), -1).to(q.dtype).unsqueeze(-2) for x in (cos, sin))
        half = size // 2
        turned = (torch.cat((-x[..., half:], x[..., :half]), -1) for x in (q, k))
        a, b = (x * cos + y * sin for x, y in zip((q, k), turned, strict=True))
        return a, b

    return Case(
        op="rope",
        name=f"{tokens} tokens, {query_heads} + {key_heads} heads of {size}, {dtype}",
        make=make,
        ours=rope,
        peers={"Hugging Face": hugging_face, "torch.compile": _compiled(hugging_face)},
        gpu_peers=libraries.rope(),
        check=_agrees(rope),
        bytes=2 * tokens * (query_heads + key_heads) * size * dtype.itemsize,
    )


def _swiglu(rows: int, width: int, dtype: torch.dtype) -> Case:
    def eager(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    return Case(
        op="swiglu",
        name=f"{rows} x {width}, {dtype}",
        make=lambda: tuple(randn(rows, width, dtype=dtype, seed=s) for s in (0, 1)),
        ours=swiglu,
        peers={"torch": eager, "torch.compile": _compiled(eager)},
        gpu_peers=libraries.swiglu(),
        check=_agrees(swiglu),
        bytes=3 * rows * width * dtype.itemsize,
    )


def _spatial_norm(channels: int, size: int, cells: int) -> Case:
    def values(*shape: int, seed: int) -> Tensor:
        x = randn(*shape, dtype=torch.float32, seed=seed)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def make() -> tuple[Tensor, ...]:
        scale, shift = values(1, 2 * channels, cells, cells, seed=1).chunk(2, dim=1)
        return values(1, channels, size, size, seed=0), values(channels, seed=2), values(channels, seed=3), scale, shift

    def ours(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return spatial_norm(x, weight, bias, scale, shift, 32, EPS, True)

    def eager(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        a, b = (F.interpolate(m, size=(size, size)) for m in (scale, shift))
        return F.silu(F.group_norm(x, 32, weight, bias, EPS) * a + b)

    return Case(
        op="spatial_norm",
        name=f"{channels} channels, {size} x {size} pixels, {cells} x {cells} codes",
        make=make,
        ours=ours,
        peers={"torch": eager, "torch.compile": _compiled(eager)},
        check=_agrees(ours),
        bytes=2 * size * size * channels * 4,
    )


def _gelu(rows: int, width: int, dtype: torch.dtype) -> Case:
    return Case(
        op="gelu",
        name=f"{rows} x {width}, {dtype}",
        make=lambda: (randn(rows, width, dtype=dtype),),
        ours=gelu,
        peers={"torch": F.gelu, "torch.compile": _compiled(F.gelu)},
        check=_agrees(gelu),
        bytes=2 * rows * width * dtype.itemsize,
    )


def _paged_attention(
    batch: int,
    query_heads: int,
    key_heads: int,
    size: int,
    length: int,
    dtype: torch.dtype,
    *,
    curve: tuple[str, str, int] | None = None,
) -> Case:
    """The peers read keys and values that lie together already, [B, Hkv, L, D], or gather the pages first."""
    scale = size**-0.5
    grouped = query_heads != key_heads

    def make() -> tuple[Tensor, ...]:
        pages = -(-length // PAGE)
        table = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(1)).view(batch, pages).int()
        k, v = (randn(batch * pages, PAGE, key_heads, size, dtype=dtype, seed=s) for s in (2, 3))
        together = [p[table.long()].flatten(1, 2)[:, :length].transpose(1, 2).contiguous() for p in (k, v)]
        q = randn(batch, query_heads, size, dtype=dtype)
        return q, k, v, table, torch.full((batch,), length, dtype=torch.int32), *together

    def ours(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *together: Tensor) -> Tensor:
        return paged_attention(q, k, v, table, lengths, scale)

    def sdpa(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *together: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[:, :, None], *together, scale=scale, enable_gqa=grouped)[:, :, 0]

    def gather(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *together: Tensor) -> Tensor:
        keys, values = (p[table.long()].flatten(1, 2)[:, :length].transpose(1, 2) for p in (k, v))
        return F.scaled_dot_product_attention(q[:, :, None], keys, values, scale=scale, enable_gqa=grouped)[:, :, 0]

    def check(result: Tensor, *inputs: Tensor) -> None:
        exact = [x.double() if x.is_floating_point() else x for x in inputs]
        near("paged_attention", result, sdpa(*exact))

    return Case(
        op="paged_attention",
        name=f"{batch} rows of {length}, {query_heads}/{key_heads} heads of {size}, {dtype}",
        make=make,
        ours=ours,
        peers={"torch SDPA, no pages": sdpa, "gather + torch SDPA": gather},
        gpu_peers={"torch.compile, gather + SDPA": _compiled(gather), **libraries.paged_attention(scale)},
        check=check,
        bytes=2 * batch * length * key_heads * size * dtype.itemsize,
        operations=4 * batch * length * query_heads * size,
        rounded=dtype == torch.bfloat16,
        scale=curve,
    )


CASES = [
    _rms_norm(4096, 3584, torch.bfloat16),
    _rms_norm(2, 256, torch.float32),
    _add_rms_norm(4096, 3584, torch.bfloat16),
    _rope(1024, 28, 4, 128, torch.bfloat16),
    _swiglu(1024, 18944, torch.bfloat16),
    _spatial_norm(128, 16, 8),
    _spatial_norm(64, 32, 8),
    _gelu(16, 2048, torch.float32),
    _gelu(1024, 18944, torch.bfloat16),
    _paged_attention(2, 28, 4, 128, 320, torch.bfloat16),
    _paged_attention(32, 28, 4, 128, 320, torch.bfloat16),
    _paged_attention(2, 32, 32, 128, 320, torch.bfloat16),
    _paged_attention(32, 32, 32, 128, 320, torch.bfloat16),
    _paged_attention(16, 8, 2, 32, 400, torch.float32),
]
CURVES = [
    *(
        _paged_attention(
            b, 28, 4, 128, 320, torch.bfloat16, curve=("paged_attention, 28/4 heads, length 320", "rows", b)
        )
        for b in (1, 4, 16, 64)
    ),
]
