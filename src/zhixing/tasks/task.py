"""What a task is: six methods and nothing inherited; its fields are its settings, saved as `task.json` in the model folder."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Schema

TASKS = {
    "language": "zhixing.tasks.language:Language",
    "classify": "zhixing.tasks.classify:Classify",
    "embed": "zhixing.tasks.embed:Embed",
    "translate": "zhixing.tasks.translate:Translate",
}

Item = dict[str, Any]
Example = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model says of one example.

    value       the answer itself: a label, a text
    confidence  float in [0, 1]: the probability that the model gives to it; None where it has no meaning
    scores      {choice: probability} where there are choices
    """

    value: Any
    confidence: float | None = None
    scores: dict[str, float] | None = None


class Task(Protocol):
    """The contract that every task keeps; a seventh method needs the removal of one."""

    name: str
    kinds: tuple[str, ...]
    schema: Schema

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Task:
        """Read what the task must know (labels, ranges) from the training split only."""

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn one example into arrays without a batch axis; with no tokenizer, into what a model of raw text reads."""

    def head(self, width: int) -> Any:
        """Give the module that sits on the body's states of width D, or None."""

    def objective(self, start: Any = None) -> Any:
        """Give what is minimised; start is the model before step 0."""

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Read answers out of a model, item by item: the only read-out for evaluate, predict, generate and serve."""

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Judge answers: one value per example, so that intervals and paired tests are made in one place."""


def to_dict(task: Any) -> dict[str, Any]:
    """Give a task as JSON-able data."""
    return {"task": task.name, **dataclasses.asdict(task)}


def from_dict(data: dict[str, Any], path: str = "task.json") -> Any:
    """Rebuild a task from its data; raises DataError for a task that is not known."""
    name = data.get("task")
    if name not in TASKS:
        raise DataError("task.unknown", path=path, name=name, among=list(TASKS))
    cls = task_class(name)
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known})


def task_class(name: str) -> Any:
    """Import the class of a task by its name in the table."""
    module, cls = TASKS[name].split(":")
    return getattr(importlib.import_module(module), cls)
