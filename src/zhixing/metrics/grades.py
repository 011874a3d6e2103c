"""How well two graders agree on a scale of steps."""

from __future__ import annotations

import numpy as np


def quadratic_kappa(expected: np.ndarray, given: np.ndarray) -> float:
    """Give quadratic weighted kappa: 1 - the mean squared gap over that of the same grades paired by chance; NaN where both are constant.

    expected, given  (N,) int   steps of the scale

    Source: Cohen 1968. The weights' denominator cancels, and N^2 of chance's mean of (a - b)^2 is N (sum a^2 + sum b^2) - 2 sum a sum b.
    Sums of whole numbers are exact: a grader that always says the same has 0, not a rounding's worth more or less than its interval.
    """
    first, second = np.asarray(expected, float), np.asarray(given, float)
    chance = len(first) * ((first**2).sum() + (second**2).sum()) - 2 * first.sum() * second.sum()
    return float(1 - len(first) * ((first - second) ** 2).sum() / chance) if chance else float("nan")


def mean_kappa(expected: np.ndarray, given: np.ndarray, scale: np.ndarray) -> float:
    """Give the mean of `quadratic_kappa` over the scales, (N,) int the number of each answer's; those that have no kappa are left out.

    Grades of several scales together would agree merely because the scales differ.
    """
    found = [quadratic_kappa(np.asarray(expected)[scale == each], np.asarray(given)[scale == each]) for each in np.unique(scale)]
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def kappa_of_unseen(expected: np.ndarray, given: np.ndarray, unseen: np.ndarray) -> float:
    """Give `quadratic_kappa` over the answers to questions that training has not seen; NaN where there are none."""
    chosen = np.asarray(unseen, bool)
    return quadratic_kappa(np.asarray(expected)[chosen], np.asarray(given)[chosen])
