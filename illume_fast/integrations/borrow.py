"""Our decoder over another model's parameters: the very same objects, nothing is copied."""

import torch
from torch import nn

from illume_fast.integrations.plain import UnsupportedModelError
from illume_fast.model.config import ConfigError, DecoderConfig
from illume_fast.model.decoder import Decoder


def decoder_config(config: object, name: str) -> DecoderConfig:
    """The sizes of a `transformers` text model of the Qwen2, Qwen3 or Llama kind from its config, called `name`.

    Raises:
        UnsupportedModelError: it has what our decoder lacks, such as scaled rotary positions or sliding windows.
    """
    try:
        return DecoderConfig.from_hf(config.to_dict())  # type: ignore[attr-defined]
    except ConfigError as error:
        raise UnsupportedModelError(f"{name}: {error}") from error


def borrow_decoder(body: nn.Module, config: DecoderConfig, name: str) -> Decoder:
    """Our decoder with `body`'s parameters for its own, in eval mode.

    `body` is a text model without its head and names its parameters as Hugging Face does; `name` is what messages call
    it. Its rotary frequencies, if it keeps them, must be those of `config`.

    Raises:
        UnsupportedModelError: a parameter is missing, left over or of another shape, or the frequencies differ.
    """
    with torch.device("meta"):
        decoder = Decoder(config)
    theirs = dict(body.named_parameters())
    for path, placeholder in list(decoder.named_parameters()):
        parameter = theirs.pop(path, None)
        if parameter is None:
            raise UnsupportedModelError(f"{name}.{path}: is missing")
        if parameter.shape != placeholder.shape:
            shapes = f"{tuple(parameter.shape)}, by its config it should be {tuple(placeholder.shape)}"
            raise UnsupportedModelError(f"{name}.{path}: its shape is {shapes}")
        owner, _, leaf = path.rpartition(".")
        decoder.get_submodule(owner).register_parameter(leaf, parameter)
    if theirs:
        raise UnsupportedModelError(f"{name}: has parameters that our decoder lacks: {', '.join(sorted(theirs))}")
    _check_frequencies(body, config, name)
    return decoder.eval()


def _check_frequencies(body: nn.Module, config: DecoderConfig, name: str) -> None:
    theirs = getattr(getattr(body, "rotary_emb", None), "inv_freq", None)
    if theirs is None:
        return
    exponents = torch.arange(0, config.head_size, 2, device=theirs.device).float() / config.head_size
    ours = 1.0 / config.rope_theta**exponents
    # casting a model rounds this buffer too
    tolerance = 4 * torch.finfo(theirs.dtype).eps
    if theirs.shape != ours.shape or not torch.allclose(theirs.float(), ours, rtol=tolerance, atol=0.0):
        raise UnsupportedModelError(
            f"{name}.rotary_emb: its frequencies are not those of theta {config.rope_theta:g}; "
            "a model that was cast to 16 bits and back keeps rounded ones, load it in the dtype it shall have"
        )
