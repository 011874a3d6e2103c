"""Histories, the oldest item first: gathered from rows of who, what and when, and cut so that each one's last items are what is asked.

Cutting is the protocol by which recommenders are compared, leave-one-out: the last item of each history is test's, given all before it;
the one before that is validation's; training has the rest. Leaves out: how a user liked an item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zhixing.data.columns import labelled
from zhixing.data.schema import Items, Label, Number, Read, Schema


@dataclass(frozen=True)
class Time:
    """When something was: a number that grows, or a date as ISO 8601 writes it, in UTC where it names no zone."""

    def read(self, value: Any) -> Read:
        """Take a finite number, or a date."""
        number, wrong = Number().read(value)
        if wrong is None:
            return number, None
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            moment = None
        if moment is None:
            return math.nan, "no_time" if wrong == "no_number" else "not_time"
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), None


HISTORIES = Schema({"items": Items()})
EVENTS: dict[str, Any] = {"user": Label(), "items": Label()}  # a row is one item of a user's history


def reading(schema: Schema, columns: Iterable[str], given: Mapping[str, str | None]) -> Schema:
    """Give the schema by which rows are read that shall become examples of another.

    columns  of the rows
    given    {field: column} of the user's own words; with a "user", each row is one item, in the order of the rows or of "time"
    return   the schema itself, where rows have an answer beside their history already
    """
    if schema.answer != "label" or not isinstance(schema.fields.get("items"), Items):
        return schema
    if "user" in given:
        return Schema({**EVENTS, **({"time": Time()} if "time" in given else {})})
    return schema if labelled(list(columns), given, "") else HISTORIES


def cut(items: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Cut a history: the last of the splits asks for its last item, the one before for the item before that, each given all before it.

    return  {split: {"items": ..., "label": ...}}; nothing for a history in which a split would have no item to begin with
    """
    if len(items) <= len(splits):
        return {}
    ends = range(len(items) - len(splits), len(items))
    return {split: {"items": list(items[:end]), "label": items[end]} for split, end in zip(splits, ends, strict=True)}


class Gathered:
    """The rows of users, put in order when all are there; rows of one time stay in their order.

    A row may say besides where it stands (`place`), so that it can be accounted for.
    """

    def __init__(self) -> None:
        self._events: dict[Any, list[tuple[float, str, Any]]] = {}

    def add(self, user: Any, event: Mapping[str, Any], place: Any = None) -> None:
        """Take a row, as EVENTS reads it."""
        self._events.setdefault(user, []).append((event.get("time", 0.0), event["items"], place))

    def __iter__(self) -> Iterator[tuple[Any, list[str], list[Any]]]:
        """Give every user with the history and the places of its rows, users in the order in which they came."""
        for user, events in self._events.items():
            events.sort(key=lambda each: each[0])
            yield user, [item for _, item, _ in events], [place for _, _, place in events]
