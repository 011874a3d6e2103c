"""What a task is judged by: named figures over arrays of one row an example, so that intervals and paired tests are made in one place.

A task's `metrics` gives the arrays; a figure makes one number of them: the mean of one array, or a function of all examples together
(an F1, a rank correlation, an area under a curve), which is no mean of anything. An example that a figure has nothing to judge by (it has
no label, where others have one) is NaN in its arrays and is left out of that figure; where all are, the figure is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from zhixing.metrics import intervals

Values = Mapping[str, np.ndarray]
WHOLE_ROUNDS = 500  # of the bootstrap of a function of all examples, which is called once a round


def known(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keep the examples that are NaN in none of the arrays, (N,) or (N, k) each."""
    there = np.ones(len(arrays[0]), bool)
    for each in arrays:
        if np.asarray(each).dtype.kind == "f":
            there &= ~np.isnan(each).reshape(len(each), -1).any(1)
    return tuple(np.asarray(each)[there] for each in arrays)


@dataclass(frozen=True)
class Mean:
    """The mean of one array; lower: less is better."""

    of: str
    lower: bool = False

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        (row,) = known(values[self.of])
        return float(np.mean(row)) if len(row) else float("nan")

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval; a share has Wilson's."""
        row = known(values[self.of])[0].astype(np.float64)
        if np.isin(row, (0.0, 1.0)).all():
            return intervals.wilson(int(row.sum()), len(row))
        return intervals.interval(row, seed)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples."""
        return intervals.paired(*known(first[self.of], second[self.of]), seed)


@dataclass(frozen=True)
class Whole:
    """A function of arrays over all examples; lower: less is better."""

    function: Callable[..., float]
    of: tuple[str, ...]
    lower: bool = False

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        arrays = known(*(values[name] for name in self.of))
        return float(self.function(*arrays)) if len(arrays[0]) else float("nan")

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval."""
        return intervals.interval_of(self.function, *known(*(values[name] for name in self.of)), seed=seed, rounds=WHOLE_ROUNDS)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples."""
        arrays = known(*(values[name] for values in (first, second) for name in self.of))
        mine, others = arrays[: len(self.of)], arrays[len(self.of) :]
        return intervals.paired_of(self.function, mine, others, seed, rounds=WHOLE_ROUNDS)


@dataclass(frozen=True)
class Ratio:
    """The sum of one array over that of another, bits over bytes; lower: less is better."""

    total: str
    size: str
    lower: bool = False

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        return float(values[self.total].sum() / values[self.size].sum())

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval."""
        return intervals.interval_of_ratio(values[self.total], values[self.size], seed)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same units."""
        return intervals.paired(first[self.total], second[self.total], seed, first[self.size])


Figures = Mapping[str, Mean | Whole | Ratio]
