"""Noticing that a model's weights are others than they were."""

import weakref
from collections.abc import Iterator

from torch import Tensor, nn

from illume_fast.engine.request import GenerativeModel


class Weights:
    """The weights of a model as they were at the last look.

    Writes past autograd, through `.data` or NumPy, are not seen.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self._model = model
        self._seen: list[tuple[weakref.ref[Tensor], int, int]] | None = None

    def look(self) -> tuple[bool, bool]:
        """(some may lie elsewhere, some may hold other values) since the last look; True where it cannot be known."""
        if not isinstance(self._model.decoder, nn.Module):
            return True, True
        weights = list(self._tensors())
        before, self._seen = self._seen, [(weakref.ref(w), w.data_ptr(), _version(w)) for w in weights]
        if before is None or len(before) != len(weights):
            return True, True
        pairs = list(zip(before, weights, strict=True))
        # one that wraps others, as those of torchao do, has no address of its own: a new one may lie anywhere
        moved = any(ref() is not w or address != w.data_ptr() for (ref, address, _), w in pairs)
        # a tensor made in inference mode counts no versions
        written = any(version < 0 or version != _version(w) for (_, _, version), w in pairs)
        return moved, moved or written

    def _tensors(self) -> Iterator[Tensor]:
        module = self._model if isinstance(self._model, nn.Module) else self._model.decoder
        assert isinstance(module, nn.Module)
        yield from module.parameters()
        yield from module.buffers()
        head = self._model.head
        yield from (w for w in (head.weight, head.bias) if w is not None)


def _version(weight: Tensor) -> int:
    return -1 if weight.is_inference() else weight._version
