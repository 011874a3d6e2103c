"""Settings with origins: each value stands beside where it came from; a later layer wins; an unknown name is an error, never ignored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import DataError, UsageError


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


def read(cls: type, config: dict[str, Any], remarks: frozenset[str] = frozenset(), fixed: dict[str, Any] | None = None) -> Any:
    """Read a model's config.json into a frozen dataclass; nothing in it is ignored unknowingly.

    remarks  settings that say how a model was made or is to be run, and do not change what it computes
    fixed    settings that have one value only: another would be another model
    Raises DataError for a setting that is unknown, missing, of another type, or not as it is fixed.
    """
    fixed = fixed or {}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name, value in config.items():
        if name in fixed and value != fixed[name]:
            raise DataError("model.config_value", name=name, value=value, wanted=fixed[name])
        if name in fields and not _accepts(hints[name], value):
            raise DataError("model.config_value", name=name, value=repr(value), wanted=_name(hints[name]))
        if name not in fields and name not in fixed and name not in remarks:
            raise DataError("model.config_unknown", name=name, among=sorted(fields))
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in config:
            raise DataError("model.config_missing", name=name)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in config.items() if name in fields})


def fingerprint(value: Any) -> str:
    """Give the SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
