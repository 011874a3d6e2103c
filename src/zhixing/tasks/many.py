"""Many tasks in one model: p(y | x, task).   a task's name and what that task asks -> what it answers

One body reads every text, after the name of the task; each task has its own head, objective and figures. What is shared is learnt from all.
A task is named "classify/reviews": its sort, and what it is about. `zhixing prepare A MIX --also B,C` makes the corpus of several others.
Leaves out: tasks that write, and tasks of tables and histories, which have no text to share.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Part, Schema, needed
from zhixing.metrics import intervals
from zhixing.metrics.figures import Figures, Mean, Values, Whole
from zhixing.tasks.task import Answer, Example, Item, from_dict, function, task_class, to_dict

SORTS = ("classify", "multilabel", "tag", "moderate", "grade")
LEAD = 16  # tokens of a task's name that are read, at most
READ_AHEAD = 2048


def union() -> Schema:
    """Give the fields of all sorts of task together; a row has those of its own."""
    schemas = [task_class(sort).schema for sort in SORTS]
    told = tuple(dict.fromkeys(name for schema in schemas for name in schema.told))
    fields = {name: kind for schema in schemas for name, kind in schema.fields.items()}
    optional = {name: dataclasses.replace(kind, optional=True) for name, kind in fields.items()}
    ordered = sorted(optional.items(), key=lambda pair: pair[0] in told)  # what is asked comes first
    return Schema({"task": Part(), **dict(ordered)}, None, told)


@dataclass(frozen=True)
class Of:
    """A figure of one task, over that task's own examples."""

    name: str
    figure: Mean | Whole

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.figure.lower

    def own(self, values: Values) -> Values:
        """Give the arrays of the task; none where no example is of it."""
        return {key.removeprefix(f"{self.name} "): each for key, each in values.items() if key.startswith(f"{self.name} ")}

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        return self.figure(own) if (own := self.own(values)) else float("nan")

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval."""
        return self.figure.interval(self.own(values), seed)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples."""
        return self.figure.paired(self.own(first), self.own(second), seed)


@dataclass(frozen=True)
class Average:
    """The mean of figures of several tasks, each counting once; they are of different examples, so their variances add up.

    The ends of its interval are those of a normal distribution whose variance is taken from the tasks' own intervals.
    """

    figures: tuple[Of, ...]
    lower: bool = False

    def there(self, *values: Values) -> list[Of]:
        """Name the figures that can be made of all of these values."""
        return [each for each in self.figures if not any(np.isnan(each(one)) for one in values)]

    def __call__(self, values: Values) -> float:
        """Give the mean."""
        found = [each(values) for each in self.there(values)]
        return float(np.mean(found)) if found else float("nan")

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the mean with its interval."""
        low, high, _ = together([each.interval(values, seed) for each in self.there(values)])
        return intervals.Interval(self(values), low, high, LEVEL)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples of each task."""
        gaps = [each.paired(first, second, seed) for each in self.there(first, second)]
        low, high, spread = together(gaps)
        value = float(np.mean([each.value for each in gaps]))
        p = 2 * NormalDist().cdf(-abs(value) / spread) if spread else float(value == 0)
        return intervals.Difference(value, low, high, LEVEL, p)


LEVEL = 0.95
WIDTH = 2 * NormalDist().inv_cdf((1 + LEVEL) / 2)  # of an interval, in standard deviations


def together(found: list[Any]) -> tuple[float, float, float]:
    """Give the ends of the interval of a mean of independent figures, and its standard deviation, from their own intervals."""
    spread = float(np.sqrt(sum(((each.high - each.low) / WIDTH) ** 2 for each in found))) / len(found)
    value = float(np.mean([each.value for each in found]))
    return value - spread * WIDTH / 2, value + spread * WIDTH / 2, spread


@dataclass(frozen=True)
class Many:
    """Several tasks of texts, by name.

    parts    {name: the task as `task.json` writes one}, sorted by name
    longest  tokens that a neural model reads, the task's name among them
    """

    parts: dict[str, dict[str, Any]]
    longest: int = 256

    name: ClassVar[str] = "many"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = union()
    counted: ClassVar[dict[str, str]] = {"least_each": "zhixing.tasks.many:fit_each", "default_each": "zhixing.tasks.many:fit_each"}
    default: ClassVar[str] = "default_each"
    eras: ClassVar[tuple[str, ...]] = ("textcnn", "bigru")
    dial: ClassVar[dict[str, Any]] = {
        "tokenizer": "bpe", "batch": 32, "window": 256, "epochs": 8.0, "learning_rate": 0.001, "dropout": 0.2,
    }  # fmt: skip
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.many:settled"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Many:
        """Let each task read what it must know from its own rows; raises DataError for a name that is none, or when there is but one."""
        rows: dict[str, list[Example]] = {}
        for example in training_examples:
            rows.setdefault(example["task"], []).append(example)
        if len(rows) < 2:
            raise DataError("task.one_part", name=next(iter(rows), ""))
        longest = settings.get("longest", cls.longest) - LEAD
        parts = {}
        for name in sorted(rows):
            of = task_class(sort_of(name))
            cut = {"longest": longest} if any(field.name == "longest" for field in dataclasses.fields(of)) else {}
            parts[name] = to_dict(of.fit(rows[name], **cut))
        return cls(parts, **settings)

    @functools.cached_property
    def _tasks(self) -> dict[str, Any]:
        """Give the tasks by name."""
        return {name: from_dict(data) for name, data in self.parts.items()}

    @property
    def figures(self) -> Figures:
        """Give each task's own figures under its name and, before them, the mean of the first of each."""
        own = {name: [(key, Of(name, figure)) for key, figure in task.figures.items()] for name, task in self._tasks.items()}
        average = Average(tuple(figures[0][1] for figures in own.values()))
        return {"average": average} | {f"{name} {key}": figure for name, figures in own.items() for key, figure in figures}

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into its task's own item, and "part", the task's number; with a tokenizer also "lead" (K,) int, the task's name."""
        name = find(self, example["task"])
        task = self._tasks[name]
        for field in needed(task.schema.asked.fields):
            if field not in example:
                raise DataError("task.part_field", name=name, field=field)
        item = task.encode({field: example[field] for field in task.schema.fields if field in example}, tokenizer)
        item |= {"part": list(self.parts).index(name)}
        if tokenizer is None:
            return item
        before = len(tokenizer.frame[0])
        return item | {"lead": lead(name, tokenizer)} | ({"before": before} if before else {})

    def head(self, width: int) -> Any:
        """Give every task's own head, by the task's number."""
        from zhixing.layers.heads import Several

        return Several({str(number): task.head(width) for number, task in enumerate(self._tasks.values())})

    def objective(self, start: Any = None) -> Any:
        """Give each task's own objective, over its own batches."""
        from zhixing.objectives.parts import OfPart

        return OfPart({name: task.objective(start) for name, task in self._tasks.items()})

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each item's answer as its own task reads it out; streams in pieces."""
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            found: list[Answer | None] = [None] * len(chunk)
            for number, (name, task) in enumerate(self._tasks.items()):
                places = [place for place, item in enumerate(chunk) if item["part"] == number]
                own = (
                    task.answers(see(self, model, name, tokenizer), [chunk[place] for place in places], tokenizer, decoding)
                    if places
                    else ()
                )
                for place, answer in zip(places, own, strict=True):
                    found[place] = answer
            yield from found  # type: ignore[misc]

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give each task's own arrays over its own examples, under its name."""
        found: dict[str, np.ndarray] = {}
        for name, task in self._tasks.items():
            own = [(answer, example) for answer, example in zip(answers, examples, strict=True) if find(self, example["task"]) == name]
            if own:
                values = task.metrics(*map(list, zip(*own, strict=True)))
                found |= {f"{name} {key}": value for key, value in values.items()}
        return found


def find(task: Many, name: str) -> str:
    """Give the task that a name means: its whole name, or what follows its sort where only one has that."""
    if name in task.parts:
        return name
    found = [each for each in task.parts if each.partition("/")[2] == name]
    if len(found) != 1:
        raise DataError("task.part_unknown", name=name, among=list(task.parts))
    return found[0]


def part_of(task: Any, example: Example) -> Any:
    """Give the task that an example is of: the task itself or, where it is many, the one that the example names."""
    return task._tasks[find(task, example["task"])] if isinstance(task, Many) else task


def sort_of(name: str) -> str:
    """Give the sort of task that a name begins with; raises DataError for a name that is none."""
    sort, _, rest = name.partition("/")
    if sort not in SORTS or not rest:
        raise DataError("task.part_name", name=name, among=SORTS)
    return sort


def lead(name: str, tokenizer: Any) -> np.ndarray:
    """Give the tokens that stand for a task before its texts: (K,) int64."""
    return np.asarray(tokenizer.encode(name)[:LEAD], np.int64)


def see(task: Many, model: Any, name: str, tokenizer: Any) -> Any:
    """Give a model as one of the tasks sees it: through its own head, or its own counted model."""
    number = str(list(task.parts).index(name))
    if hasattr(model, "parts"):
        return model.parts[number]
    import torch

    from zhixing.layers.kinds import Led

    device = next(model.parameters()).device
    return Led(model, model.head.heads[number], torch.from_numpy(lead(name, tokenizer)).to(device), len(tokenizer.frame[0])).eval()


def own_rows(task: Many, name: str, rows: Iterable[Example]) -> list[Example]:
    """Keep the rows of one task."""
    return [row for row in rows if find(task, row["task"]) == name]


def settled(task: Many, model: Any, rows: list[Example], tokenizer: Any) -> Many:
    """Settle on validation what each task must know of its model, on its own rows."""
    parts = dict(task.parts)
    for name, own in task._tasks.items():
        if own.fitted:
            parts[name] = to_dict(function(own.fitted)(own, see(task, model, name, tokenizer), own_rows(task, name, rows), tokenizer))
    return dataclasses.replace(task, parts=parts)


def fit_each(
    task: Many, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Many, Any, dict[str, Any]]:
    """Fit a counted model for each task alone, on its own rows: nothing is shared.

    settings  method: "default_each", each task's default, or "least_each", the least that it has; the rest as each takes them
    """
    from zhixing.models.several import Several

    method = settings["method"]
    models: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for number, (name, own) in enumerate(task._tasks.items()):
        chosen = own.default if method == "default_each" and own.default in own.counted else next(iter(own.counted))
        given = [own_rows(task, name, each) for each in (rows, held)]
        fitted, models[str(number)], found[name] = function(own.counted[chosen])(own, *given, {**settings, "method": chosen}, tell)
        parts[name] = to_dict(fitted)
    return dataclasses.replace(task, parts=parts), Several(method, models), found
