"""What a task is: six methods and nothing inherited; its fields are its settings, saved as `task.json` in the model folder.

Beside the methods a task says as class attributes what every verb needs to know of it, so that no verb asks for its name.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Schema
from zhixing.metrics.figures import Figures

TASKS = {
    "language": "zhixing.tasks.language:Language",
    "classify": "zhixing.tasks.classify:Classify",
    "masked": "zhixing.tasks.masked:MaskedLanguage",
    "embed": "zhixing.tasks.embed:Embed",
    "tag": "zhixing.tasks.tag:Tag",
    "risk": "zhixing.tasks.risk:Risk",
    "grade": "zhixing.tasks.grade:Grade",
    "judge": "zhixing.tasks.judge:Judge",
    "translate": "zhixing.tasks.translate:Translate",
    "moderate": "zhixing.tasks.moderate:Moderate",
    "multilabel": "zhixing.tasks.multilabel:Multilabel",
    "recommend": "zhixing.tasks.recommend:Recommend",
    "trace": "zhixing.tasks.trace:Trace",
    "see": "zhixing.tasks.see:See",
    "match": "zhixing.tasks.match:Match",
    "similar": "zhixing.tasks.similar:Similar",
    "reason": "zhixing.tasks.reason:Reason",
    "transcribe": "zhixing.tasks.transcribe:Transcribe",
    "many": "zhixing.tasks.many:Many",
}

Item = dict[str, Any]
Example = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model says of one example.

    value       the answer itself: a label, a text
    confidence  float in [0, 1]: the probability that the model gives to it; None where it has no meaning
    scores      {choice: probability} where there are choices
    reasons     {column: its share of the answer's score}, the strongest first, where the model can say why
    """

    value: Any
    confidence: float | None = None
    scores: dict[str, float] | None = None
    reasons: dict[str, float] | None = None


class Task(Protocol):
    """The contract that every task keeps; a seventh method needs the removal of one.

    kinds     the kinds of trained model that it can sit on (`layers/kinds.py`)
    schema    the fields of an example, and which of them is the answer
    figures   {name: figure} over what `metrics` gives; the first decides who is better
    counted   {name: "module:function"}: models that are fitted without the loop. They are `train --model NAME` and, at their defaults, the
              rivals that stand beside every score: function(task, rows, held, settings, tell) -> (task, model, about), where rows and held
              are lists of examples (held may be empty: nothing is chosen then) and about is for the card. Under refit=False among the
              settings the model has not counted the held rows, and can be judged on them (`counted_in`)
    default   the model that is trained when none is named
    eras      trained models that `train --best` tries beside all counted ones, of different sorts, the first one first
    dial      settings of trained models for this task, over those of the family's plan
    reads     "text": a tokenizer makes tokens of it; "rows": there is no tokenizer, and the vocabulary of a trained model, if the task has
              any, is task.vocabulary, a property
    fitted    "module:function" that settles on validation what the task must know of its model (temperature, thresholds), or "":
              function(task, model, rows, tokenizer) -> task
    """

    name: str
    kinds: tuple[str, ...]
    schema: Schema
    figures: Figures
    counted: Mapping[str, str]
    default: str
    eras: tuple[str, ...]
    dial: Mapping[str, Any]
    reads: str
    fitted: str

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


def counted_in(rows: list[Any], held: list[Any], settings: Mapping[str, Any]) -> list[Any]:
    """Give the rows that a counted model is made of in the end: what it was chosen by as well, unless it is to be judged on that."""
    return [*rows, *held] if settings.get("refit", True) else list(rows)


def encoded(task: Any, examples: Iterable[Example], tokenizer: Any, place: str) -> Iterator[Item]:
    """Encode examples one by one; what one of them is refused for is raised with its place.

    place  where they come from: a split
    """
    for number, example in enumerate(examples, 1):
        try:
            yield task.encode(example, tokenizer)
        except DataError as error:
            raise DataError(error.code, **{**error.values, "at": f"{place}:{number}"}) from None


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
    return function(TASKS[name])


def function(place: str) -> Callable[..., Any]:
    """Import what "module:name" names."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
