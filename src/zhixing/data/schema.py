"""What the fields of an example are: a few types and the table of them that is saved as `schema.json`.

Each type reads the value of a person's cell, or says by a code why it cannot (`data/readers.py` gives rows, `data/columns.py` chooses the
cells); and says in JSON Schema what `/v1/predict` takes for it.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data import media
from zhixing.data.readers import flaw

PROBED = 8  # items of a history that stands for a golden text; tones and colours too
PROBE_RATE = 48_000  # samples a second: no model hears more
Read = tuple[Any, str | None]  # the value, and None or the code of what is wrong


@dataclass(frozen=True)
class Text:
    """A piece of writing, any Unicode; a list of pieces is joined by line ends.

    optional  a row may lack it, or have it empty; a whole number is text too, since such a text often is the number of a question
    turned    a golden text stands for it backwards: what is compared with another field must not be the same as that
    """

    optional: bool = False
    turned: bool = False

    def read(self, value: Any) -> Read:
        """Take text that is not empty."""
        if value is None:
            return "", None if self.optional else "no_text"
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = "\n".join(value)
        if self.optional and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return "", "not_text"
        if not value.strip():
            return ("", None) if self.optional else (value, "empty")
        return value, flaw(value)

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text."""
        return text[::-1] if self.turned else text

    def form(self) -> dict[str, Any]:
        """Say what is sent for it: at least one character that is no space, where it must be there."""
        return {"type": "string"} if self.optional else {"type": "string", "pattern": r"\S"}


@dataclass(frozen=True)
class Label:
    """One of a few names.

    optional  a row may lack it
    """

    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a name, a whole number, or yes and no."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return "", None if self.optional else "no_label"
        if isinstance(value, bool):
            return ("true" if value else "false"), None
        if isinstance(value, str | int):
            name = str(value).strip()
            return name, flaw(name)
        return "", "not_label"

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text."""
        return text

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "string"}


@dataclass(frozen=True)
class Number:
    """A quantity; unit says in what.

    optional  a row may lack it
    """

    unit: str = ""
    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a finite number, or text that spells one."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return None, None if self.optional else "no_number"
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        return (number, None) if math.isfinite(number) else (0.0, "not_number")

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: its length."""
        return float(len(text))

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "number"}


@dataclass(frozen=True)
class Tokens:
    """A text that is cut into tokens already: a list, or one text in which spaces part them, or a run of letters (`columns.spell`).

    optional  a row may lack it
    """

    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take at least one token, none of them empty."""
        found = value.split() if isinstance(value, str) else value
        if found is None or found == []:
            return [], None if self.optional else "no_tokens"
        if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
            return [], "not_tokens"
        return found, flaw("".join(found))

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: its pieces between spaces."""
        return text.split() or ["-"]

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}


@dataclass(frozen=True)
class Tags:
    """One name for each token of another field.

    of        that field
    optional  a row may lack it
    """

    of: str = "tokens"
    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a list of names, or one text in which spaces part them."""
        found = value.split() if isinstance(value, str) else value
        if found is None or found == []:
            return [], None if self.optional else "no_tags"
        if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
            return [], "not_tags"
        return found, flaw("".join(found))

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: none of its tokens is anything."""
        return ["O"] * len(Tokens().probe(text))

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "array", "items": {"type": "string"}}


@dataclass(frozen=True)
class Part:
    """Which of several tasks a row is of, by name."""

    def read(self, value: Any) -> Read:
        """Take a name."""
        name, wrong = Label().read(value)
        return name, "no_part" if wrong else None

    def probe(self, text: str, known: Sequence[str] = ()) -> Any:
        """Give the value that stands for a golden text: of the names that a task knows, the one that its length falls on."""
        return known[len(text) % len(known)] if known else text

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "string"}


@dataclass(frozen=True)
class Labels:
    """Any number of names, none too.

    optional  a row may lack it
    """

    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a list of names, or one text in which ; or | part them; the order and repeats say nothing."""
        found = re.split("[;；|]", value) if isinstance(value, str) else value
        if found is None:
            return None, None if self.optional else "no_labels"
        if not isinstance(found, list) or not all(isinstance(each, str | int) for each in found):
            return [], "not_labels"
        names = sorted({name for each in found if (name := Label().read(each)[0].strip())})
        return names, flaw("".join(names))

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: none."""
        return []

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "array", "items": {"type": "string"}}


@dataclass(frozen=True)
class Items:
    """A history: names of items, the oldest first; a list, or one text in which spaces part them. It may be empty."""

    def read(self, value: Any) -> Read:
        """Take names and whole numbers, none of them empty."""
        found = value.split() if isinstance(value, str) else value
        if found is None:
            return [], "no_items"
        if not isinstance(found, list) or not all(type(each) in (str, int) and str(each) for each in found):
            return [], "not_items"
        names = [str(each) for each in found]
        return names, flaw("".join(names))

    def probe(self, text: str, known: Sequence[str] = ()) -> Any:
        """Give the value that stands for a golden text: of the items that a task knows, one for each of its first letters."""
        return [known[ord(letter) % len(known)] for letter in text[:PROBED]] if known else text.split()

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "array", "items": {"type": "string", "minLength": 1}}


@dataclass(frozen=True)
class Flags:
    """Yes or no for each item of another field, as 1 and 0; the last item may lack it: it is what is asked.

    of  that field
    """

    of: str = "items"

    def read(self, value: Any) -> Read:
        """Take a list of 0 and 1, or of yes and no, or one text in which spaces part them."""
        found = value.split() if isinstance(value, str) else value
        if found is None:
            return [], "no_flags"
        known = {"0": 0, "1": 1, 0: 0, 1: 1}  # false is 0 and true is 1
        if not isinstance(found, list) or not all(isinstance(each, str | int) and each in known for each in found):
            return [], "not_flags"
        return [known[each] for each in found], None

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: one for each item that stands for it."""
        return [ord(letter) % 2 for letter in text[:PROBED]]

    def form(self) -> dict[str, Any]:
        """Say what is sent for it; answered are probabilities of yes, one for each item."""
        return {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}


@dataclass(frozen=True)
class Record:
    """What the other columns of a table hold: {column: a text, a number, or nothing}."""

    def read(self, value: Any) -> Read:
        """Take at least one cell; a cell that is text and spells a number is one, and an empty one is nothing."""
        if not isinstance(value, dict) or not value:
            return {}, "no_cells"
        found: dict[str, Any] = {}
        for name, cell in value.items():
            if isinstance(cell, bool):
                cell = str(cell).lower()
            if isinstance(cell, str):
                number, wrong = Number().read(cell)
                cell = (cell if cell.strip() else None) if wrong else number
            elif isinstance(cell, int | float):
                try:
                    cell = float(cell) if math.isfinite(cell) else None
                except OverflowError:  # a whole number may have any number of digits
                    return {}, "not_cell"
            elif cell is not None:
                return {}, "not_cell"
            found[name] = cell
        return found, next((wrong for cell in found.values() if isinstance(cell, str) and (wrong := flaw(cell))), None)

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: no cell, so that every column is empty."""
        return {}

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}


@dataclass(frozen=True)
class Sound:
    """A recording: a data URL, or in a file of rows the name of a sound file beside it.

    optional  a row may lack it
    """

    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a data URL of a sound that can be read."""
        return _medium(value, self.optional, "sound")

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: a tone for each of its first letters."""
        letters = np.frombuffer((text or "-")[:PROBED].encode("utf-32-le"), np.uint32)
        times = np.arange(PROBE_RATE // 10) / PROBE_RATE  # (N,) seconds
        tones = 0.5 * np.sin(2 * np.pi * (200 + letters[:, None] * 7 % 3000) * times)  # one a letter
        return media.data_url(media.wav(tones.ravel(), PROBE_RATE), "audio/wav")

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "string", "pattern": "^data:audio/[a-z0-9.+-]+;base64,"}


@dataclass(frozen=True)
class Image:
    """A picture: a data URL, or in a file of rows the name of an image file beside it.

    optional  a row may lack it
    """

    optional: bool = False

    def read(self, value: Any) -> Read:
        """Take a data URL of an image that can be read."""
        return _medium(value, self.optional, "image")

    def probe(self, text: str) -> Any:
        """Give the value that stands for a golden text: columns of colours, one for each of its first letters."""
        letters = np.frombuffer((text or "-")[:PROBED].encode("utf-32-le"), np.uint32)
        colours = np.stack([letters * factor % 256 for factor in (7, 31, 101)]).astype(np.uint8)  # (C, X)
        return media.data_url(media.png(colours[:, None].repeat(PROBED, 1).repeat(2, 1).repeat(2, 2)), "image/png")

    def form(self) -> dict[str, Any]:
        """Say what is sent for it."""
        return {"type": "string", "pattern": "^data:image/[a-z0-9.+-]+;base64,"}


def _medium(value: Any, optional: bool, name: str) -> Read:
    """Take a data URL whose content can be decoded; it is kept as it is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", None if optional else {"sound": "no_sound", "image": "no_image"}[name]
    if not isinstance(value, str):
        return "", {"sound": "not_sound", "image": "not_image"}[name]
    problem = media.flaw_of(value, name)
    return ("" if problem else value), problem


FieldType = Text | Label | Part | Labels | Number | Tokens | Tags | Items | Flags | Record | Sound | Image
TYPES: dict[str, type[Any]] = {
    "text": Text,
    "label": Label,
    "part": Part,
    "labels": Labels,
    "number": Number,
    "tokens": Tokens,
    "tags": Tags,
    "items": Items,
    "flags": Flags,
    "record": Record,
    "sound": Sound,
    "image": Image,
}


def said(field: Any) -> dict[str, Any]:
    """Give a field's settings that are not the usual ones; `of` and `unit` always."""
    return {name: value for name, value in vars(field).items() if value is not False}


def needed(fields: Mapping[str, Any]) -> list[str]:
    """Name the fields that no row may lack."""
    return [name for name, field in fields.items() if not getattr(field, "optional", False)]


@dataclass(frozen=True)
class Schema:
    """The fields of an example, by name, in order.

    answer  the field that answers the others; rows to predict lack it. None: there is none
    beside  fields that answer as well; then a row may lack some of the answers, and must have one
    stepwise  the answer is given place by place, and each place's is told to those after it: rows to predict hold it as far as it is known
    """

    fields: dict[str, FieldType]
    answer: str | None = None
    beside: tuple[str, ...] = ()
    stepwise: bool = False

    def __post_init__(self) -> None:
        assert set(self.told) <= set(self.fields)

    @property
    def told(self) -> tuple[str, ...]:
        """Name the fields that answer."""
        return (*(() if self.answer is None else (self.answer,)), *self.beside)

    def texts(self, example: dict[str, Any]) -> Iterator[str]:
        """Give the writing of an example, from which tokenizers learn: its texts, and its tokens one by one."""
        for name, field in self.fields.items():
            if isinstance(field, Text) and name in example:
                yield example[name]
            elif isinstance(field, Tokens) and name in example:
                yield from example[name]

    def void(self, row: Mapping[str, Any]) -> str | None:
        """Name the field of a row to be asked that holds nothing to ask, as the readers of files say; None: there is something."""
        fields = self.asked.fields
        found = {name: kind.read(row.get(name)) for name, kind in fields.items()}
        if any(isinstance(kind, Part) for kind in fields.values()):  # a text may be lacking, but not blank
            blank = {name for name, kind in fields.items() if isinstance(kind, Text) and isinstance(row.get(name), str)}
            found |= {name: ("", "empty") for name in blank if not row[name].strip()}
        empty = next((name for name, (_, reason) in found.items() if reason == "empty"), None)
        if empty is None and not needed(fields) and not any(value for value, _ in found.values()):
            return next(iter(fields), None)
        return empty

    @property
    def cases(self) -> bool:
        """Whether equal questions are different cases, whose answers may differ: rows of a table, histories."""
        return any(isinstance(each, Record | Items) for each in self.fields.values())

    @functools.cached_property
    def asked(self) -> Schema:
        """The schema of what is asked: every field but the answers, of which one that is given step by step is asked as well."""
        return Schema({name: field for name, field in self.fields.items() if self.stepwise or name not in self.told})

    def key(self, example: dict[str, Any]) -> str:
        """Give what is asked as one text, by which equal questions are known: a lone text as it is."""
        asked = {name: example[name] for name in self.asked.fields if name in example}
        return example["text"] if set(asked) == {"text"} else json.dumps(asked, ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        """Give the schema as JSON: {"text": {"type": "text"}, ...}."""
        names = {cls: name for name, cls in TYPES.items()}
        return {name: {"type": names[type(field)], **said(field)} for name, field in self.fields.items()}

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
