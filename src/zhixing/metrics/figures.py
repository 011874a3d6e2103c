"""What a task is judged by: named figures over arrays of one row an example, so that intervals and paired tests are made in one place.

A task's `metrics` gives the arrays; a figure makes one number of them: the mean of one array, or a function of all examples together
(an F1, a rank correlation, an area under a curve), which is no mean of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from zhixing.metrics import intervals

Values = Mapping[str, np.ndarray]
WHOLE_ROUNDS = 500  # of the bootstrap of a function of all examples, which is called once a round


@dataclass(frozen=True)
class Mean:
    """The mean of one array; lower: less is better."""

    of: str
    lower: bool = False

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        return float(np.mean(values[self.of]))

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval; a share has Wilson's."""
        row = np.asarray(values[self.of], np.float64)
        if np.isin(row, (0.0, 1.0)).all():
            return intervals.wilson(int(row.sum()), len(row))
        return intervals.interval(row, seed)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples."""
        return intervals.paired(first[self.of], second[self.of], seed)


@dataclass(frozen=True)
class Whole:
    """A function of arrays over all examples; lower: less is better."""

    function: Callable[..., float]
    of: tuple[str, ...]
    lower: bool = False

    def __call__(self, values: Values) -> float:
        """Give the figure."""
        return float(self.function(*(values[name] for name in self.of)))

    def interval(self, values: Values, seed: int) -> intervals.Interval:
        """Give the figure with its interval."""
        return intervals.interval_of(self.function, *(values[name] for name in self.of), seed=seed, rounds=WHOLE_ROUNDS)

    def paired(self, first: Values, second: Values, seed: int) -> intervals.Difference:
        """Compare two models on the same examples."""
        mine, others = (tuple(values[name] for name in self.of) for values in (first, second))
        return intervals.paired_of(self.function, mine, others, seed, rounds=WHOLE_ROUNDS)


Figures = Mapping[str, Mean | Whole]
