"""Strict conversion between frozen dataclasses and JSON-ready dictionaries."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Self, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration holds a key or a value that its class does not allow."""


class Config:
    """Base of the frozen configuration dataclasses.

    `from_dict` accepts exactly the declared fields: an unknown key, or a missing key without a default, is a
    `ConfigError` that names it. Fields may be scalars, tuples of scalars, other `Config`s, or any of these or None;
    and `dict`s, which are somebody else's settings and taken as they are.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping as `to_dict` writes it (lists stand for tuples)."""
        return parse(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return to_plain(self)


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from a mapping of exactly its fields; see `Config`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__}: expected an object with named fields, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{cls.__name__}: unknown keys {', '.join(unknown)}; allowed are {', '.join(fields)}")
    missing = sorted(name for name, f in fields.items() if _has_no_default(f) and name not in values)
    if missing:
        raise ConfigError(f"{cls.__name__}: missing keys {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, f"{cls.__name__}.{name}") for name, value in values.items()})


def to_plain(value: Any) -> Any:
    """JSON-ready form of a dataclass, a sequence or a scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__} {value!r}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, got {len(value)}")
        return tuple(_convert(item, v, where) for item, v in zip(items, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected an object, got {type(value).__name__} {value!r}")
        return dict(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else parse(hint, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(hint, type) or type(value) is not hint:
        raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__} {value!r}")
    return value
