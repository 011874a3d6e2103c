"""Tracing: will the next exercise be right, from those before it.   items, correct -> p(right), at every place

A place's answer is judged from the exercises before it, right or wrong, and from its own exercise; then it is told to the places after it.
Source: Piech et al. 2015, arXiv:1506.05908: a recurrent model of (exercise, answer) tokens; here any causal model reads them. Differs: the
two answers to an exercise are two tokens of the vocabulary, of which the more probable is told. Leaves out: time between answers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.batch import pad
from zhixing.data.schema import Flags, Items, Schema
from zhixing.metrics import labels as judged
from zhixing.metrics.figures import Figures, Whole
from zhixing.tasks.task import Answer, Example, Item, counted_in

START = 0  # the token before every history; item k gone wrong is the token 2k + 1, gone right 2k + 2
READ_BATCH = 64  # histories, or pieces of long ones, read at once
FEW = 1e-9  # the least probability that is judged
STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # of the prior over weights, of which validation chooses


def area(chances: np.ndarray, flags: np.ndarray) -> float:
    """Give the area under the curve over all places of all histories, each (B,) of arrays."""
    return judged.area_under_curve(np.concatenate([*chances, []]), np.concatenate([*flags, []]))


def share(totals: np.ndarray, places: np.ndarray) -> float:
    """Give a total over the places it stands for."""
    return float(totals.sum() / places.sum()) if places.sum() else float("nan")


@dataclass(frozen=True)
class Trace:
    """One history of exercises, the probability of each to be right.

    labels   the exercises, or their skills, that training has shown, in sorted order; all others are read as one more
    longest  places that a trained model reads at once; of a longer history, each piece has half of them before it
    """

    labels: tuple[str, ...]
    longest: int = 256

    name: ClassVar[str] = "trace"
    kinds: ClassVar[tuple[str, ...]] = ("causal",)
    schema: ClassVar[Schema] = Schema({"items": Items(), "correct": Flags("items")}, "correct", stepwise=True)
    figures: ClassVar[Figures] = {
        "auc": Whole(area, ("chances", "flags")),
        "nats": Whole(share, ("nats", "places"), lower=True),
        "accuracy": Whole(share, ("right", "places")),
    }
    counted: ClassVar[dict[str, str]] = {"base_rate": "zhixing.tasks.trace:fit_rate", "practice": "zhixing.tasks.trace:fit_practice"}
    default: ClassVar[str] = "gru"
    eras: ClassVar[tuple[str, ...]] = ("gru", "qwen3")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 8.0, "dropout": 0.2}
    reads: ClassVar[str] = "rows"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Trace:
        """Read the exercises from the training examples; raises DataError when there is none."""
        items = sorted({item for example in training_examples for item in example["items"]})
        if not items:
            raise DataError("fit.rows", model="trace", rows=0, answers=0)
        return cls(labels=tuple(items), **settings)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: the start, and two of each exercise and of all that are not known."""
        return 1 + 2 * (len(self.labels) + 1)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.labels)}

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a history into {"items": (T,) int, "correct": (T,) int}, one shorter when the last answer is not known."""
        items, correct = example["items"], example["correct"]
        if not 0 <= len(items) - len(correct) <= 1 or any(each not in (0, 1) for each in correct):
            raise DataError("trace.history", items=len(items), answers=len(correct))
        numbers = [self._numbers.get(each, len(self.labels)) for each in items]
        return {"items": np.array(numbers, np.int64), "correct": np.array(correct, np.int64)}

    def head(self, width: int) -> None:
        """A causal model has its own outputs, over the two answers to each exercise."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of each answer, given its exercise and what stands before it."""
        from zhixing.objectives.items import NextAnswer

        return NextAnswer(self.longest)

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give of each history p(right) at every place, the one that has no answer yet included."""
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_BATCH)):
            histories = [each["items"] for each in chunk]
            # What stands for an answer that is not known is told to no place.
            correct = [np.pad(each["correct"], (0, len(each["items"]) - len(each["correct"]))) for each in chunk]
            read = type(model).probabilities if hasattr(model, "probabilities") else self._read
            for chances in read(model, histories, correct):
                yield Answer([float(each) for each in chances])

    @staticmethod
    def _pieces(length: int, longest: int) -> Iterator[tuple[int, int, int]]:
        """Cut a history into pieces to read: (from, to, the first place that is answered by it)."""
        yield 0, min(length, longest), 0
        step = -(-longest // 2)
        for first in range(longest, length, step):
            yield first + step - longest, min(length, first + step), first

    def _read(self, model: Any, histories: list[np.ndarray], correct: list[np.ndarray]) -> list[np.ndarray]:
        found = [np.zeros(len(each)) for each in histories]
        tokens = [np.concatenate([[START], 1 + 2 * i + c])[:-1] for i, c in zip(histories, correct, strict=True)]
        pieces = [(row, *piece) for row, each in enumerate(histories) if len(each) for piece in self._pieces(len(each), self.longest)]
        for start in range(0, len(pieces), READ_BATCH):
            some = pieces[start : start + READ_BATCH]
            batch = pad([{"tokens": tokens[row][a:b], "items": histories[row][a:b]} for row, a, b, _ in some], START)
            p = 1 / (1 + np.exp(-log_odds(model, batch).astype(np.float64)))  # (B, T)
            for (row, a, b, first), each in zip(some, p, strict=True):
                found[row][first:b] = each[first - a : b - a]
        return found

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per history: p(right) and what was at every place that has an answer (arrays), their number, how many are right, nats."""
        chances, flags = np.empty(len(examples), object), np.empty(len(examples), object)
        for place, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            count = len(example["correct"])
            flags[place] = np.array(example["correct"], float)
            chances[place] = np.array([*answer.value, *[0.5] * count][:count], float)
        right = [np.sum((p > 0.5) == (c > 0)) for p, c in zip(chances, flags, strict=True)]
        nats = [-np.log(np.maximum(np.where(c > 0, p, 1 - p), FEW)).sum() for p, c in zip(chances, flags, strict=True)]
        places = [len(each) for each in flags]
        given = {"nats": nats, "places": places, "right": right}
        return {"chances": chances, "flags": flags, **{name: np.array(each, float) for name, each in given.items()}}


Fitted = tuple[Trace, Any, dict[str, Any]]


def log_odds(model: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Give the log-odds that each item goes right, (B, T).

    batch  "tokens" (B, T) int: what stands before each place; "items" (B, T) int; "lengths" (B,) int
    """
    items = batch["items"]
    if hasattr(model, "run"):
        logits = model.answer(batch, "next")["next"]  # (B, T, V)
        wrong, right = (np.take_along_axis(logits, (2 * items + side)[..., None], 2)[..., 0] for side in (1, 2))
        return right - wrong
    import torch

    from zhixing.objectives.items import odds

    device = next(model.parameters()).device
    with torch.inference_mode():
        return odds(model, *(torch.as_tensor(batch[name]).to(device) for name in ("tokens", "items"))).cpu().numpy()


def fit_rate(task: Trace, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Give every answer the share of right ones."""
    from zhixing.models.histories import Practice

    flags = np.array([flag for row in counted_in(rows, held, settings) for flag in row["correct"]])
    return task, Practice.constant((flags.sum() + 1) / (len(flags) + 2), len(task.labels) + 1), {}


def fit_practice(task: Trace, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit logistic regression on what went right and wrong before: the prior's strength on the held histories, then all together."""
    from zhixing.models.histories import Practice

    def split(part: list[Example]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        items = [task.encode(each, None) for each in part]
        return [each["items"][: len(each["correct"])] for each in items], [each["correct"] for each in items]

    count, strength = len(task.labels) + 1, settings.get("strength") or 0.0
    found: dict[str, Any] = {}
    if held and not strength:
        learnt, asked = split(rows), [task.encode(each, None) for each in held]
        nats = task.figures["nats"]
        trials = {s: nats(task.metrics(list(task.answers(Practice.fit(*learnt, count, s), asked, None)), held)) for s in STRENGTHS}
        strength = min(trials, key=lambda each: trials[each])
        found["trials"] = {str(each): value for each, value in trials.items()}
        tell("train.strength", method="practice", strength=strength)
    both = split(counted_in(rows, held, settings))
    model = Practice.fit(*both, count, strength) if strength else Practice.fit(*both, count)
    return task, model, found | {"strength": model.config.strength}
