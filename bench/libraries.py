"""What libraries for GPUs have to set against an op: peers of a case, where they are installed."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[..., Any]

_WORKSPACE_BYTES = 128 << 20


def _installed(calls: Mapping[tuple[str, str], Call]) -> dict[str, Call]:
    """The calls by name, of {(module, name): call} those whose module is there."""
    return {name: call for (module, name), call in calls.items() if find_spec(module) is not None}


@cache
def _get(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def _made_once(make: Callable[..., Call]) -> Call:
    """A call that is made of the first arguments it gets: what a user would set up once is not timed."""
    made: list[Call] = []

    def call(*arguments: Any) -> Any:
        if not made:
            made.append(make(*arguments))
        return made[0](*arguments)

    return call


def nearest_code() -> dict[str, Call]:
    """Euclidean; the squared lengths of the codes are known beforehand."""

    def kmeans(x: Tensor, book: Tensor, *rest: Any) -> Call:
        assign = _get("flash_kmeans.assign_euclid_triton", "euclid_assign_triton")
        codes, lengths = book[None], book.square().sum(1)[None]
        return lambda x, *_: assign(x[None], codes, x.square().sum(1)[None], c_sq=lengths)[0]

    return _installed({("flash_kmeans", "flash-kmeans"): _made_once(kmeans)})


def rms_norm(eps: float) -> dict[str, Call]:
    """The norm of rows."""
    return _installed(
        {
            ("flashinfer", "FlashInfer"): lambda x, weight: _get("flashinfer.norm", "rmsnorm")(x, weight, eps),
            ("liger_kernel", "Liger"): lambda x, weight: _get("liger_kernel.ops", "LigerRMSNormFunction").apply(
                x, weight, eps, 0.0, "llama", False
            ),
        }
    )


def add_rms_norm(eps: float) -> dict[str, Call]:
    """The norm of a sum. FlashInfer overwrites its arguments, and so gets copies of its own, always the same."""

    def in_place(x: Tensor, residual: Tensor, weight: Tensor) -> Call:
        own, total = x.clone(), residual.clone()
        return lambda x, residual, weight: _get("flashinfer.norm", "fused_add_rmsnorm")(own, total, weight, eps)

    return _installed(
        {
            ("flashinfer", "FlashInfer, in place"): _made_once(in_place),
            ("liger_kernel", "Liger"): lambda x, residual, weight: _get(
                "liger_kernel.ops", "LigerFusedAddRMSNormFunction"
            ).apply(x, residual, weight, eps, 0.0, "llama", False),
        }
    )


def rope() -> dict[str, Call]:
    """FlashInfer wants heads side by side and one table of cosines and sines."""

    def cached(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Call:
        turn = _get("flashinfer.rope", "apply_rope_with_cos_sin_cache")
        table, positions = torch.cat((cos, sin), -1), torch.arange(len(q), device=q.device)
        size = q.shape[-1]
        return lambda q, k, *_: turn(positions, q.flatten(1), k.flatten(1), size, table, True)

    return _installed({("flashinfer", "FlashInfer"): _made_once(cached)})


def swiglu() -> dict[str, Call]:
    """FlashInfer wants gate and up side by side."""

    def side_by_side(gate: Tensor, up: Tensor) -> Call:
        both = torch.cat((gate, up), -1)
        return lambda *_: _get("flashinfer.activation", "silu_and_mul")(both)

    return _installed(
        {
            ("flashinfer", "FlashInfer"): _made_once(side_by_side),
            ("liger_kernel", "Liger"): lambda gate, up: _get("liger_kernel.ops", "LigerSiLUMulFunction").apply(
                gate, up
            ),
        }
    )


def paged_attention(scale: float) -> dict[str, Call]:
    """Planned beforehand, as an engine does once a step for all layers."""

    def planned(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *rest: Tensor) -> Call:
        page, heads, size = k.shape[1:]
        counts = (lengths + page - 1) // page
        there = torch.arange(table.shape[1], device=table.device) < counts[:, None]
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=q.device)
        wrapper = _get("flashinfer", "BatchDecodeWithPagedKVCacheWrapper")(
            workspace, "NHD", use_tensor_cores=q.shape[1] // heads >= 4
        )
        wrapper.plan(
            F.pad(counts.cumsum(0), (1, 0)).int(),
            table[there].int(),
            (lengths - (counts - 1) * page).int(),
            q.shape[1],
            heads,
            size,
            page,
            q_data_type=q.dtype,
            kv_data_type=k.dtype,
            sm_scale=scale,
        )
        return lambda q, k, v, *_: wrapper.run(q, (k, v))

    return _installed({("flashinfer", "FlashInfer"): _made_once(planned)})


def cfg_sample(guidance: float, top_k: int, top_p: float) -> dict[str, Call]:
    """Mixed by torch, filtered and drawn by FlashInfer."""

    def sample(cond: Tensor, uncond: Tensor) -> Tensor:
        mixed = uncond + guidance * (cond - uncond)
        draw = _get("flashinfer.sampling", "top_k_top_p_sampling_from_logits")
        return draw(mixed, top_k or mixed.shape[1], top_p)

    return _installed({("flashinfer", "torch + FlashInfer"): sample})


def cfg_head_sample(guidance: float, top_k: int, top_p: float, legal: tuple[int, int]) -> dict[str, Call]:
    """The legal rows of the head once, on mixed states, then FlashInfer."""
    lo, hi = legal

    def sample(cond: Tensor, uncond: Tensor, weight: Tensor) -> Tensor:
        logits = F.linear(uncond + guidance * (cond - uncond), weight[lo:hi]).float()
        return _get("flashinfer.sampling", "top_k_top_p_sampling_from_logits")(logits, top_k, top_p) + lo

    return _installed({("flashinfer", "legal rows, mixed, torch + FlashInfer"): sample})


def linear_cross_entropy() -> dict[str, Call]:
    """Losses of (x, weight, labels)."""

    def loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return _get("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy")(x, weight, labels)

    return _installed({("liger_kernel", "Liger"): loss})
