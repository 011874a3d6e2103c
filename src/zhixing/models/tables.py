"""Tables: columns of numbers and categories as arrays, logistic regression on them, and the most frequent label, the rival of everything.

A column is a category when any of its values is a string, or when it has none: of what it may hold later nothing is known. What is missing
is missing: null, a number that is not finite, a category that training has not seen. The logistic regression reads numbers standardised,
with a column beside each that says whether it is missing, and categories one-hot. Reads with NumPy; scikit-learn only fits. Leaves out:
interactions and curves (trees.py has them), dates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError
from zhixing.models.bag import normalise

REMARKS = frozenset({"architectures"})
KINDS = ("number", "category")
CATEGORIES = 200  # kept of a column, the most frequent; rarer ones are missing. Histograms of trees have at most 255
STRENGTHS = (100.0, 10.0, 1.0, 0.1)
STEPS = 1000  # of L-BFGS; standardised columns need far fewer
FEW = 1e-12
FARTHEST = 1e100  # numbers beyond it are read as it, so that their squares are numbers
FEW_OTHERS = 0.05  # cells that are no numbers beside those that are, up to which they may be mistakes

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns of a table, those of categories first.

    names       the columns
    categories  the known values of each column, in falling frequency; None for a column of numbers
    """

    names: tuple[str, ...]
    categories: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def learn(cls, rows: Sequence[Row], kinds: Mapping[str, str] | None = None, minimum: int = 1) -> Columns:
        """Read the columns of training rows.

        kinds    "number" or "category" of columns whose values do not say it: codes that are written as numbers
        minimum  rows that must have a category for it to be known

        Raises UsageError for a kind that is none, or of a column that is not there; DataError where there is no column.
        """
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names:
            raise DataError("table.columns", rows=len(rows))
        kinds = dict(kinds or {})
        for name, kind in kinds.items():
            if name not in names:
                raise UsageError("table.column", name=name, row="—", among=names)
            if kind not in KINDS:
                raise UsageError("table.kind", column=name, name=kind, among=KINDS)
        for name in names:
            if name not in kinds:
                cells = [row[name] for row in rows if row.get(name) is not None]
                kinds[name] = "category" if not cells or any(isinstance(each, str) for each in cells) else "number"
        found: dict[str, tuple[str, ...] | None] = {}
        for name in sorted(names, key=lambda name: kinds[name] != "category"):
            counts = Counter(say(row[name]) for row in rows if row.get(name) is not None) if kinds[name] == "category" else {}
            known = sorted((value for value, count in counts.items() if count >= minimum), key=lambda value: (-counts[value], value))
            found[name] = tuple(known[:CATEGORIES]) if kinds[name] == "category" else None
        return cls(tuple(found), tuple(found.values()))

    @property
    def categorical(self) -> int:
        """How many columns are of categories: the first ones."""
        return sum(values is not None for values in self.categories)

    def read(self, rows: Sequence[Row]) -> np.ndarray:
        """Turn rows into numbers: a category as its place, what is missing as NaN.

        return  (B, C) float64

        Raises DataError naming the row and the column that is unknown, or whose value is no number where numbers are.
        """
        table = np.full((len(rows), len(self.names)), np.nan)
        places = {name: place for place, name in enumerate(self.names)}
        codes = [None if values is None else {value: code for code, value in enumerate(values)} for values in self.categories]
        for index, row in enumerate(rows):
            for name, value in row.items():
                place = places.get(name)
                if place is None:
                    raise DataError("table.column", name=name, row=index + 1, among=self.names)
                if value is None:
                    continue
                known = codes[place]
                if known is not None:
                    table[index, place] = known.get(say(value), np.nan)
                elif isinstance(value, str) or not isinstance(value, int | float | np.number):
                    raise DataError("table.value", row=index + 1, column=name, value=repr(value)[:100])
                elif math.isfinite(value):
                    table[index, place] = min(max(value, -FARTHEST), FARTHEST)
        return table

    def check(self, row: Row) -> None:
        """Raise DataError for a cell that is no number in a column of numbers."""
        for name, values in zip(self.names, self.categories, strict=True):
            if values is None and isinstance(row.get(name), str):
                raise DataError("table.cell", column=name, value=repr(row[name])[:100])

    def to_dict(self) -> dict[str, Any]:
        """Give the columns as a JSON-able value."""
        return {"names": list(self.names), "categories": [None if values is None else list(values) for values in self.categories]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Columns:
        """Make the columns from their JSON."""
        return cls(tuple(data["names"]), tuple(None if values is None else tuple(values) for values in data["categories"]))


def nearly_numbers(rows: Sequence[Row]) -> dict[str, tuple[int, int, str]]:
    """Find the columns that one mistake would make names: all but a few of their cells are numbers.

    return  {column: (how many numbers, how many other cells, the first of these)}
    """
    numbers, others, first = Counter[str](), Counter[str](), dict[str, str]()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str):
                others[name] += 1
                first.setdefault(name, value)
            elif value is not None:
                numbers[name] += 1
    return {name: (numbers[name], count, first[name]) for name, count in others.items() if count <= FEW_OTHERS * numbers[name]}


def say(value: Any) -> str:
    """Write a category: whole numbers without a point, so that 2 and 2.0 are one."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def check_labels(model: str, rows: int, labels: np.ndarray, label_count: int) -> np.ndarray:
    """Give labels as (B,) int64; raises DataError when they do not fit the rows, or one is none."""
    labels = np.asarray(labels, np.int64)
    if rows == 0 or len(labels) != rows:
        raise DataError("fit.rows", model=model, rows=rows, answers=len(labels))
    if labels.min() < 0 or labels.max() >= label_count:
        wrong = int(np.flatnonzero((labels < 0) | (labels >= label_count))[0])
        raise DataError("fit.label", row=wrong, label=int(labels[wrong]), label_count=label_count)
    return labels


@dataclass(frozen=True)
class LogisticConfig:
    """The columns, how many labels there are, and the precision of the Gaussian prior over weights."""

    columns: dict[str, Any]
    label_count: int
    strength: float = 1.0
    model_type: str = "table_logistic"


class TableLogistic:
    """Logistic regression on standardised numbers, indicators of what is missing, and one-hot categories.

    means, deviations  (C,) float64           of the columns of numbers; 0 and 1 for categories
    weights            (F, labels) float64    indicators first: one a column of numbers, then the numbers, then a one-hot place a category
    bias               (labels,) float64
    """

    arrays = True

    def __init__(self, config: LogisticConfig, means: np.ndarray, deviations: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.config = config
        self.columns = Columns.from_dict(config.columns)
        self.means, self.deviations, self.weights, self.bias = means, deviations, weights, bias

    @classmethod
    def fit(
        cls,
        rows: Sequence[Row],
        labels: np.ndarray,
        label_count: int,
        held: tuple[Sequence[Row], np.ndarray] | None = None,
        strength: float | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> TableLogistic:
        """Fit the mode of the posterior; where no strength is given, the one that held rows like best, else 1.

        rows    B dicts of {column: str | number | None}
        labels  (B,) int    0 <= label < label_count
        held    rows and labels that choose the strength

        Raises DataError or UsageError naming what is wrong.
        """
        from sklearn.linear_model import LogisticRegression

        labels = check_labels("table_logistic", len(rows), labels, label_count)
        if strength is not None and not strength > 0:
            raise UsageError("fit.strength", value=strength)
        columns = Columns.learn(rows, kinds)
        table = columns.read(rows)
        numbers = np.arange(len(columns.names)) >= columns.categorical
        known = np.isfinite(table) & numbers
        count = np.maximum(known.sum(0), 1)
        means = np.where(known, table, 0).sum(0) / count
        deviations = np.sqrt((np.where(known, table - means, 0) ** 2).sum(0) / count)
        deviations[deviations == 0] = 1
        strengths = (strength,) if strength is not None else STRENGTHS if held and len(held[0]) else (1.0,)
        best, lowest = None, np.inf
        for each in strengths:
            config = LogisticConfig(columns.to_dict(), label_count, float(each))
            model = cls(config, means, deviations, np.zeros((0, label_count)), np.zeros(label_count))
            features = model.widen(table)
            seen = np.unique(labels)
            weights, bias = np.zeros((features.shape[1], label_count)), np.full(label_count, np.log(FEW))
            bias[seen] = 0
            if len(seen) > 1:
                found = LogisticRegression(C=1 / each, max_iter=STEPS, tol=1e-6).fit(features, labels)
                one = len(seen) == 2  # scikit-learn gives the log-odds of the second label only
                weights[:, seen] = np.stack([-found.coef_[0] / 2, found.coef_[0] / 2], 1) if one else found.coef_.T
                bias[seen] = [-found.intercept_[0] / 2, found.intercept_[0] / 2] if one else found.intercept_
            model.weights, model.bias = weights, bias
            if len(strengths) == 1:
                return model
            nats = judge(model.probabilities(held[0]), check_labels("table_logistic", len(held[0]), held[1], label_count))
            if nats < lowest:
                best, lowest = model, nats
        return best

    def widen(self, table: np.ndarray) -> np.ndarray:
        """Turn a table's numbers into what the weights stand for: (B, C) to (B, F) float64."""
        first = self.columns.categorical
        missing = np.isnan(table[:, first:])
        numbers = np.where(missing, 0, (table[:, first:] - self.means[first:]) / self.deviations[first:])
        parts = [missing.astype(float), numbers]
        for place in range(first):
            parts.append((table[:, place, None] == np.arange(len(self.columns.categories[place]))).astype(float))
        return np.concatenate(parts, 1)

    def probabilities(self, rows: Sequence[Row]) -> np.ndarray:
        """Give p(label | row): (B, labels) float64, each row sums to 1."""
        return normalise(self.widen(self.columns.read(rows)) @ self.weights + self.bias)

    def contributions(self, rows: Sequence[Row]) -> np.ndarray:
        """Give each column's share of each label's score, numbers against their means: (B, C, labels) float64, columns as in `columns`."""
        features = self.widen(self.columns.read(rows))[:, :, None] * self.weights  # (B, F, labels)
        first = self.columns.categorical
        count = len(self.columns.names) - first
        found = np.zeros((len(features), len(self.columns.names), self.config.label_count))
        found[:, first:] = features[:, :count] + features[:, count : 2 * count]
        edges = np.cumsum([2 * count, *(len(values) for values in self.columns.categories[:first])])
        for place in range(first):
            found[:, place] = features[:, edges[place] : edges[place + 1]].sum(1)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"means": self.means, "deviations": self.deviations, "weights": self.weights, "bias": self.bias}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> TableLogistic:
        """Build the model again from its configuration and its saved arrays."""
        names = ("means", "deviations", "weights", "bias")
        # A file's arrays lie at any address, and the last bit of a product may depend on that.
        return cls(read(LogisticConfig, dict(config), REMARKS), *(np.array(tensors[name]) for name in names))


def judge(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Give the mean of -log p(label): (B, labels) and (B,) to nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], FEW)).mean())


@dataclass(frozen=True)
class MajorityConfig:
    """How many labels there are."""

    label_count: int
    model_type: str = "majority"


class Majority:
    """The share of each label in training, whatever the example says: counts (labels,) int64."""

    arrays = True

    def __init__(self, config: MajorityConfig, counts: np.ndarray) -> None:
        self.config = config
        self.counts = counts

    @classmethod
    def fit(cls, labels: np.ndarray, label_count: int) -> Majority:
        """Count the labels, (B,) int; raises DataError when there is none, or one that is none."""
        labels = check_labels("majority", len(labels), labels, label_count)
        return cls(MajorityConfig(label_count), np.bincount(labels, minlength=label_count))

    def probabilities(self, rows: Sequence[Any]) -> np.ndarray:
        """Give the same shares for every row: (B, labels) float64."""
        return np.tile(self.counts / self.counts.sum(), (len(rows), 1))

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"counts": self.counts}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Majority:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(MajorityConfig, dict(config), REMARKS), np.asarray(tensors["counts"]))
