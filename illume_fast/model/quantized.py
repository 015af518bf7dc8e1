"""Weight-only quantisation by torchao: half to an eighth of the bytes that a decoding step reads, at some loss."""

from typing import Any

import torch
from torch import Tensor, nn

from illume_fast.model.decoder import CausalLM
from illume_fast.model.fused import lay_together

KINDS = ("int8", "int4")
_GROUPS = (128, 64, 32)
_INT4_ROWS = 16


def quantize(model: CausalLM, kind: str) -> None:
    """Quantise the linear weights of the decoder's layers in place; embeddings, norms and the head stay as they are.

    "int8": 8 bits a weight and one scale an output, symmetric (torchao's `Int8WeightOnlyConfig`). "int4": 4 bits a
    weight, a scale and a zero for every 128 of them, or 64 or 32 where widths are no multiples of 128 (on a GPU
    `Int4WeightOnlyConfig`, for bfloat16 alone; on the CPU torchao's prototype of it, for bfloat16 and float32). Such
    layers run torchao's products: on the CPU steps are then not recorded (`Graphs.refusal` says so), on a GPU they are.

    Raises:
        ValueError: there is no such kind, or the weights do not suit it.
        RuntimeError: torchao is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"quantize={kind!r} is not known; allowed are {', '.join(map(repr, KINDS))} and None")
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f"quantize={kind!r} needs torchao ({error}): pip install 'illume-fast[int8]'") from None
    quantize_by(model, _int8() if kind == "int8" else _int4(model))


def quantize_by(model: CausalLM, config: Any) -> None:
    """As `quantize`, by a configuration of torchao, or by transformers' `TorchAoConfig` around one.

    ValueError for another kind of configuration, and for what a `TorchAoConfig` says of modules: which ones are
    quantised is as in `quantize`.
    """
    from torchao.core.config import AOBaseConfig
    from torchao.quantization import quantize_

    inner = getattr(config, "quant_type", config)
    if not isinstance(inner, AOBaseConfig):
        raise ValueError(
            f"quantization_config {type(config).__name__} is not supported; allowed are 'int8', 'int4', a torchao"
            " configuration, and a TorchAoConfig"
        )
    for name in ("modules_to_not_convert", "include_input_output_embeddings", "untie_embedding_weights"):
        if getattr(config, name, None):
            raise ValueError(f"quantization_config.{name} is not supported: the decoder's layers alone are quantised")
    quantize_(model.model.layers, inner, lambda module, name: isinstance(module, nn.Linear))
    # torchao passes over what does not suit a configuration
    if left := [name for name, weight in _weights(model).items() if not _is_torchaos(weight)]:
        raise ValueError(f"{type(inner).__name__} left {len(left)} weights as they were, {left[0]} among them")


def prepare(model: CausalLM, quantisation: str | None) -> None:
    """Lay a loaded model's weights out for generating: quantised if wished, else side by side on a GPU (`fused`)."""
    if quantisation is not None:
        quantize(model, quantisation)
    elif model.head_weight.is_cuda:
        lay_together(model.decoder)


def is_quantized(model: CausalLM) -> bool:
    """Whether some weight of the decoder's layers is torchao's."""
    return any(map(_is_torchaos, _weights(model).values()))


def _weights(model: CausalLM) -> dict[str, Any]:
    layers = model.model.layers.named_modules()
    return {f"layers.{name}.weight": module.weight for name, module in layers if isinstance(module, nn.Linear)}


def _is_torchaos(weight: Tensor) -> bool:
    return type(weight.data) is not Tensor


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(version=2, set_inductor_config=False)


def _int4(model: CausalLM) -> Any:
    weights = _weights(model)
    widths = sorted({int(weight.shape[1]) for weight in weights.values()})
    group = next((size for size in _GROUPS if not any(width % size for width in widths)), None)
    if group is None:
        raise ValueError(f"quantize='int4' needs widths that are multiples of {_GROUPS[-1]}; here they are {widths}")
    if rows := sorted({len(weight) for weight in weights.values() if len(weight) % _INT4_ROWS}):
        raise ValueError(f"quantize='int4' needs outputs in multiples of {_INT4_ROWS}; here are {rows}")
    device, dtype = model.head_weight.device.type, model.head_weight.dtype
    allowed = {"cpu": (torch.bfloat16, torch.float32), "cuda": (torch.bfloat16,)}.get(device, ())
    if dtype not in allowed:
        names = ", ".join(map(str, allowed)) or "none"
        raise ValueError(f"quantize='int4' on {device} takes weights of {names}; here they are {dtype}")
    if device == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=group, set_inductor_config=False)
    from torchao.quantization import Int4WeightOnlyConfig
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    packing = Int4PackingFormat.TILE_PACKED_TO_4D
    return Int4WeightOnlyConfig(group_size=group, int4_packing_format=packing, set_inductor_config=False)
