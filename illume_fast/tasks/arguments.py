"""Arguments of a call for several prompts."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from PIL import Image

from illume_fast.data.errors import InputError, shorten

_NAMES: dict[type, str] = {Image.Image: "PIL picture", str: "text", Integral: "whole number"}


def plain_seed(seed: Any) -> Any:
    """A numpy integer as an int; what is no integer is refused with the task."""
    return int(seed) if isinstance(seed, Integral) and not isinstance(seed, bool) else seed


def one_each(name: str, value: Any, count: int, kind: type) -> list[Any]:
    """`value` for each prompt: one for all (or None), or a list of as many."""
    if value is None or isinstance(value, kind):
        return [value] * count
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name} must be a {_NAMES[kind]} or a list of them, got {shorten(value)}")
    values = list(value)
    if len(values) != count:
        raise InputError(f"{name}: {len(values)} given for {count} prompts; give one, or one for each")
    return values
