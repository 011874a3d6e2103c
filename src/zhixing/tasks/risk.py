"""Risk: p(label | the cells of a row), for tables of numbers and categories, with the columns that speak for each answer.   row -> label

The probability is what is judged: how well it orders cases (area under the curve) and how far it lies from what happens (calibration).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Label, Record, Schema
from zhixing.metrics import labels as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.classify import FEW, set_thresholds, unsettled
from zhixing.tasks.task import Answer, Example, Item

READ_AHEAD = 2048  # rows answered at once
REASONS = 4  # columns that are named with an answer
FORESTS = 6  # averaged; one errs more, and its reasons change with the rows that were drawn (benchmarks/reasons.py)
SPREAD = 0.5  # of the prior over calibration: what is not known of a model is known to be near right


@dataclass(frozen=True)
class Risk:
    """One row of a table, one label.

    labels       the labels, in sorted order; the last one is the event whose risk is judged
    columns      the columns that training has shown; others are not read
    temperature  divides the logits, and `shifts`, one a label (none: 0), are added then: calibration
    thresholds, support   as in `classify`
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    temperature: float = 1.0
    shifts: tuple[float, ...] = ()
    thresholds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    support: dict[str, int] = dataclasses.field(default_factory=dict)

    name: ClassVar[str] = "risk"
    kinds: ClassVar[tuple[str, ...]] = ("tabular",)
    schema: ClassVar[Schema] = Schema({"row": Record(), "label": Label()}, "label")
    figures: ClassVar[Figures] = {
        "auc": Whole(judged.area_under_curve, ("risk", "event")),
        "calibration_error": Whole(judged.calibration_error, ("risk", "event"), lower=True),
        "nats": Mean("nats", lower=True),
        "accuracy": Mean("correct"),
    }
    counted: ClassVar[dict[str, str]] = {
        "majority": "zhixing.tasks.classify:fit_majority",
        "table_logistic": "zhixing.tasks.risk:fit_table",
        "trees": "zhixing.tasks.risk:fit_table",
    }
    default: ClassVar[str] = "trees"
    eras: ClassVar[tuple[str, ...]] = ()
    dial: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[str] = "rows"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Risk:
        """Read labels and columns from the training examples; raises DataError when there are fewer than two labels."""
        labels: set[str] = set()
        columns: dict[str, None] = {}
        for example in training_examples:
            labels.add(example["label"])
            columns |= dict.fromkeys(example["row"])
        if len(labels) < 2:
            raise DataError("task.one_label", labels=", ".join(labels))
        return cls(labels=tuple(sorted(labels)), columns=tuple(columns), **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"row": {column: cell}}, every known column there, and "label", the label's index, if it has one."""
        row = example["row"]
        if row and not any(name in row for name in self.columns):
            raise DataError("task.no_column", columns=", ".join(list(row)[:8]), known=", ".join(self.columns[:8]))
        item: Item = {"row": {name: row.get(name) for name in self.columns}}
        if "label" in example:
            if example["label"] not in self.labels:
                raise DataError("task.label_unseen", name=example["label"], among=self.labels, count=len(self.labels))
            item["label"] = self.labels.index(example["label"])
        return item

    def head(self, width: int) -> None:
        """Models of tables have their own outputs."""

    def objective(self, start: Any = None) -> None:
        """Models of tables are fitted without the loop."""

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each row's most probable label with its probability, and the columns that speak most for it."""
        items = iter(items)
        while chunk := [each["row"] for each in itertools.islice(items, READ_AHEAD)]:
            p = np.exp(calibrated(self, model.probabilities(chunk)))  # (B, labels)
            best = p.argmax(1)
            reasons = self._reasons(model, chunk, best)
            for row, label, why in zip(p, best, reasons, strict=True):
                yield Answer(self.labels[label], float(row[label]), dict(zip(self.labels, map(float, row), strict=True)), why)

    def _reasons(self, model: Any, rows: list[dict[str, Any]], best: np.ndarray) -> list[dict[str, float] | None]:
        """Name the columns that speak most for each row's answer, with their shares of its score."""
        if not hasattr(model, "contributions"):
            return [None] * len(rows)
        shares = model.contributions(rows)[np.arange(len(rows)), :, best]  # (B, C)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :REASONS]
        names = model.columns.names
        return [{names[c]: round(float(row[c]), 6) for c in places if row[c] > 0} for row, places in zip(shares, order, strict=True)]

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per row: the probability of the event and whether it happened, correct, nats, confidence."""
        event = self.labels[-1]
        risk = np.array([(each.scores or {}).get(event, 0.0) for each in answers])
        happened = np.array([each["label"] == event for each in examples], float)
        correct = np.array([a.value == e["label"] for a, e in zip(answers, examples, strict=True)], float)
        nats = np.array([-np.log(max((a.scores or {}).get(e["label"], 0.0), FEW)) for a, e in zip(answers, examples, strict=True)])
        confidence = np.array([each.confidence for each in answers], float)
        return {"risk": risk, "event": happened, "correct": correct, "nats": nats, "confidence": confidence}


def calibrated(task: Risk, probabilities: np.ndarray) -> np.ndarray:
    """Give what a model's probabilities mean after calibration: (B, labels) float to (B, labels) float64 log p."""
    logs = np.log(np.maximum(probabilities, FEW)) / task.temperature + np.array(task.shifts or 0.0)
    return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def fit_table(
    task: Risk, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Risk, Any, dict[str, Any]]:
    """Fit a model of tables and calibrate it on rows that it has not seen.

    Trees: FORESTS forests of all rows, each without a part that says when to stop and on which it is calibrated; where rows are few, one
    that the held rows stop. Logistic regression: the held rows set its prior and calibrate it.
    """
    from zhixing.models import trees
    from zhixing.models.tables import TableLogistic

    task, method = unsettled(task), settings["method"]

    def split(part: list[Example]) -> tuple[list[dict[str, Any]], np.ndarray]:
        items = [task.encode(each, None) for each in part if each["label"] in task.labels]
        return [each["row"] for each in items], np.array([each["label"] for each in items], np.int64)

    seen, apart = split([*rows, *held] if method == "trees" and settings.get("refit", True) else rows), split(held)
    count = len(task.labels)
    if method == "trees" and len(seen[0]) >= trees.FEWEST:
        model, given = trees.Trees.average(*seen, count, FORESTS)
        known = ~np.isnan(given).any(1)
        return settle(task, np.exp(given[known]), seen[1][known]), model, {"method": method, "forests": FORESTS}
    given = {"held": apart if len(apart[0]) else None}
    if method == "trees":
        model = trees.Trees.fit(*split(rows), count, **given)
    else:
        model = TableLogistic.fit(*seen, count, **given, strength=settings.get("strength") or None)
    about = {"method": method} | ({} if method == "trees" else {"strength": model.config.strength})
    return settle(task, model.probabilities(apart[0]), apart[1]) if len(apart[0]) else task, model, about


def settle(task: Risk, probabilities: np.ndarray, labels: np.ndarray) -> Risk:
    """Fit temperature and shifts by the likelihood of rows that the model has not seen, then the thresholds.

    probabilities  (B, labels) float, B > 0
    labels         (B,) int

    With two labels this is Platt's: a slope and a bias of the log-odds. A prior that a few dozen rows outweigh keeps them near 1 and 0.
    Source: Platt 1999; Guo et al. 2017, arXiv:1706.04599, section 4.2 (of several labels). Differs: one slope for all labels.
    """
    from scipy.optimize import minimize

    logs = np.log(np.maximum(probabilities, FEW))  # (B, labels)
    true = np.eye(len(task.labels))[labels]  # (B, labels)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(values[0])
        given = slope * logs + values[1:]
        given = given - np.logaddexp.reduce(given, axis=1, keepdims=True)
        gap = np.exp(given) - true
        downhill = np.concatenate([[slope * (gap * logs).sum()], gap.sum(0)]) + values / SPREAD**2
        return float(-(given * true).sum() + (values**2).sum() / (2 * SPREAD**2)), downhill

    found = minimize(loss, np.zeros(1 + len(task.labels)), jac=True, method="L-BFGS-B").x
    task = dataclasses.replace(task, temperature=float(np.exp(-found[0])), shifts=tuple(map(float, found[1:])))
    return set_thresholds(task, calibrated(task, probabilities), labels)
