"""What the columns of a corpus are: a few field types and the table of them that is saved as `schema.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import DataError


@dataclass(frozen=True)
class Text:
    """A piece of writing, any Unicode."""


@dataclass(frozen=True)
class Label:
    """One of a few names."""


@dataclass(frozen=True)
class Number:
    """A quantity; unit says in what."""

    unit: str = ""


FieldType = Text | Label | Number
TYPES: dict[str, type[Text] | type[Label] | type[Number]] = {"text": Text, "label": Label, "number": Number}


@dataclass(frozen=True)
class Schema:
    """The fields of an example, by name, in order."""

    fields: dict[str, FieldType]

    def as_dict(self) -> dict[str, Any]:
        """Give the schema as JSON: {"text": {"type": "text"}, ...}."""
        names = {cls: name for name, cls in TYPES.items()}
        return {name: {"type": names[type(field)], **vars(field)} for name, field in self.fields.items()}

    @classmethod
    def from_dict(cls, value: Any) -> Schema:
        """Make a schema from its JSON; raises DataError for a type that this version does not know."""
        if not isinstance(value, dict):
            raise DataError("data.schema", problem=repr(value)[:100])
        fields: dict[str, FieldType] = {}
        for name, entry in value.items():
            settings = dict(entry) if isinstance(entry, dict) else {}
            kind = TYPES.get(str(settings.pop("type", "")))
            if kind is None or not set(settings) <= set(kind.__dataclass_fields__):
                raise DataError("data.schema", problem=f"{name}: {entry!r}"[:100])
            fields[name] = kind(**settings)
        return cls(fields)
