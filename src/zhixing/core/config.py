"""Settings with origins: each value stands beside where it came from; a later layer wins; an unknown name is an error, never ignored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """A settled dataclass value and, for each of its fields, the layer that gave it."""

    value: Any
    origins: dict[str, str]


def _accepts(kind: Any, value: Any) -> bool:
    """Say whether a value is of an annotated type; ints pass as floats, lists as tuples, booleans never as numbers."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_accepts(each, value) for each in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, list | tuple)
    if kind is type(None) or kind is None:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)


def resolve(cls: type, *layers: tuple[str, dict[str, Any]]) -> Settings:
    """Settle a frozen dataclass from layers, weakest first: default < dial < recipe < flag.

    layers  (origin, {name: value})   a value of None in a layer means: this layer says nothing
    Raises UsageError for a name that the dataclass does not have (with the nearest) and for a value of another type.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in dataclasses.fields(cls):
        origins[field.name] = "default"
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in hints:
                raise UsageError("settings.unknown", name=name, among=sorted(hints), origin=origin)
            if value is None:
                continue
            if not _accepts(hints[name], value):
                raise UsageError("settings.type", name=name, value=repr(value), wanted=_name(hints[name]), origin=origin)
            values[name] = tuple(value) if isinstance(value, list) else value
            origins[name] = origin
    return Settings(cls(**values), origins)


def fingerprint(value: Any) -> str:
    """Give the SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
