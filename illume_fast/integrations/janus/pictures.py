"""The part of a Janus that draws pictures, as our engine takes it.

Picture tokens have a head and embeddings of their own: codes are the whole vocabulary here, and a prompt goes in as
embeddings.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from illume_fast.integrations.borrow import borrow_decoder, decoder_config
from illume_fast.integrations.plain import UnsupportedModelError, check_plain
from illume_fast.model.config import DecoderConfig
from illume_fast.model.head import Head
from illume_fast.ops.gather_rows import gather_rows
from illume_fast.ops.gelu import gelu
from illume_fast.ops.linear import linear

# theirs by ours
_GELU_FORMS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}
_DRAWING = ("language_model", "generation_head", "generation_embeddings", "generation_aligner")


def check_janus(model: object) -> None:
    """Raise unless `model` is a Janus that draws as its class says.

    Raises:
        TypeError: it is something else.
        UnsupportedModelError: something in it cannot be run on our engine.
    """
    if type(model) is not JanusForConditionalGeneration:
        raise TypeError(f"janus: takes a transformers JanusForConditionalGeneration itself, got {_kind(model)}")
    _gelu_form(model)
    for name in _DRAWING:
        check_plain(getattr(model.model, name), f"model.{name}")
    for name in ("prepare_embeddings_for_image_generation", "forward"):
        if name in vars(model):
            raise UnsupportedModelError(f"{name}: was replaced, and the replacement would not be called")
    parts = [next(getattr(model.model, part).parameters()) for part in _DRAWING]
    for part, first in zip(_DRAWING, parts, strict=True):
        if (first.dtype, first.device) != (parts[0].dtype, parts[0].device):
            theirs, ours = f"{first.dtype} on {first.device}", f"{parts[0].dtype} on {parts[0].device}"
            raise UnsupportedModelError(f"model.{part}: is {theirs}, model.{_DRAWING[0]} is {ours}")


def _gelu_form(model: Any) -> str:
    kind = model.config.vq_config.hidden_act
    if kind not in _GELU_FORMS:
        raise UnsupportedModelError(f"vq_config.hidden_act: {kind!r} is not supported, only {', '.join(_GELU_FORMS)}")
    return _GELU_FORMS[kind]


def _kind(model: object) -> str:
    return f"{type(model).__module__}.{type(model).__name__}"


class JanusPictures:
    """Decoder, embeddings and head over the parameters of `model`; an `illume_fast.engine.GenerativeModel`.

    `table` [codes, H] holds what the model would compute for each picture token when it is fed: a cache, made again by
    `refresh` once the weights behind it have changed.
    """

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        self._model = model
        self._config = self._read_config()
        self.decoder = borrow_decoder(model.model.language_model, self._config, "model.language_model")
        head = model.model.generation_head
        self._projection: nn.Linear = head.proj_out
        self._form = _gelu_form(model)
        self.head = Head(head.vision_head.weight, head.vision_head.bias, self._prepare)
        self._places = self._where()
        self._seen = self._digest()
        self.table = self._embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        """Codes [...] -> embeddings [..., H]."""
        return gather_rows(self.table, ids)

    @property
    def image_tokens(self) -> int:
        """Tokens of a picture."""
        return int(self._model.model.vision_model.config.num_image_tokens)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that both the model and the engine read."""
        return [*self.decoder.parameters(), *self._model.model.generation_head.parameters()]

    def is_current(self) -> bool:
        """Whether decoder and head still stand over the model's parameters, where those lay and as they were sized.

        Values may have changed: they are read where they are.
        """
        return self._read_config() == self._config and self._where() == self._places

    def refresh(self) -> None:
        """Compute the table again if the weights it comes from have changed in any bit."""
        if (digest := self._digest()) != self._seen:
            self.table.copy_(self._embeddings())
            self._seen = digest

    def _prepare(self, hidden: Tensor) -> Tensor:
        return gelu(linear(hidden, self._projection.weight, self._projection.bias), self._form)

    def _read_config(self) -> DecoderConfig:
        return decoder_config(self._model.config.text_config, "text_config")

    def _where(self) -> list[tuple[int, int, torch.dtype, torch.Size]]:
        body, head = self._model.model.language_model, self._model.model.generation_head
        return [(id(p), p.data_ptr(), p.dtype, p.shape) for part in (body, head) for p in part.parameters()]

    @torch.no_grad()
    def _embeddings(self) -> Tensor:
        """[codes, H] by the model's own modules, in one go."""
        codes = torch.arange(len(self.head.weight), device=self.head.weight.device)
        return self._model.prepare_embeddings_for_image_generation(codes)

    def _digest(self) -> bytes:
        """Of the weights behind the table: they may have been written without any trace (`parameter.data`)."""
        digest = hashlib.blake2b()
        for part in (self._model.model.generation_embeddings, self._model.model.generation_aligner):
            for parameter in part.parameters():
                values = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
                digest.update(values.numpy())
        return digest.digest()
