"""What is made of a tensor once and kept for the next call."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

Form = TypeVar("Form")


class PackedForms(Generic[Form]):
    """The results of `pack(tensor, kind)`, each kept while its tensor lives and until that is written to in place.

    Writes past autograd, through `.data` or NumPy, are not seen; a tensor that tracks no version is packed every time.
    """

    def __init__(self, pack: Callable[[Tensor, str], Form]) -> None:
        self._pack = pack
        # id of a tensor -> (the tensor, its version, forms by kind); an entry goes with its tensor
        self._kept: dict[int, tuple[weakref.ref, int, dict[str, Form]]] = {}

    def __call__(self, tensor: Tensor, kind: str) -> Form:
        if tensor.is_inference():
            return self._pack(tensor, kind)
        key = id(tensor)
        entry = self._kept.get(key)
        if entry is None or entry[0]() is not tensor or entry[1] != tensor._version:
            entry = (weakref.ref(tensor, lambda ref: self._forget(key, ref)), tensor._version, {})
            self._kept[key] = entry
        forms = entry[2]
        if kind not in forms:
            forms[kind] = self._pack(tensor, kind)
        return forms[kind]

    def __len__(self) -> int:
        return len(self._kept)

    def _forget(self, key: int, ref: weakref.ref) -> None:
        if key in self._kept and self._kept[key][0] is ref:
            del self._kept[key]
