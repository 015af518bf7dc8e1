"""Weight-only quantisation by torchao: half or a quarter of the bytes that a decoding step reads, at some loss."""

from torch import nn

from illume_fast.model.decoder import CausalLM
from illume_fast.model.fused import lay_together

KINDS = ("int8",)


def quantize(model: CausalLM, kind: str) -> None:
    """Quantise the linear weights of the decoder's layers in place; embeddings, norms and the head stay as they are.

    "int8": 8 bits a weight and one scale an output, symmetric (torchao's `Int8WeightOnlyConfig`). Such layers run
    torchao's products: on the CPU steps are then not recorded (`Graphs.refusal` says so), on a GPU they are.

    Raises:
        ValueError: there is no such kind.
        RuntimeError: torchao is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"quantize={kind!r} is not known; allowed are {', '.join(map(repr, KINDS))} and None")
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise RuntimeError(f"quantize={kind!r} needs torchao ({error}): pip install 'illume-fast[int8]'") from None
    layers = model.decoder.layers
    quantize_(layers, Int8WeightOnlyConfig(version=2, set_inductor_config=False), _is_linear)


def prepare(model: CausalLM, quantisation: str | None) -> None:
    """Lay a loaded model's weights out for generating: quantised if wished, else side by side on a GPU (`fused`)."""
    if quantisation is not None:
        quantize(model, quantisation)
    elif model.head_weight.is_cuda:
        lay_together(model.decoder)


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear)
