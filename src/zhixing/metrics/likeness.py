"""How well numbers follow others: in a line, or only in their order."""

from __future__ import annotations

import numpy as np

LEAST = 3  # numbers: through two points there is always a line


def pearson(expected: np.ndarray, given: np.ndarray) -> float:
    """Give Pearson's correlation of two (N,) float arrays; 0 where one of them says the same of all, NaN of fewer than LEAST numbers."""
    if len(expected) < LEAST:
        return float("nan")
    expected, given = (np.asarray(each, float) - np.mean(each) for each in (expected, given))
    size = np.sqrt((expected**2).sum() * (given**2).sum())
    return float((expected * given).sum() / size) if size > 1e-12 else 0.0


def spearman(expected: np.ndarray, given: np.ndarray) -> float:
    """Give Spearman's rank correlation of two (N,) float arrays, equal numbers sharing their ranks; 0 where one says the same of all."""
    return pearson(*(places(np.asarray(each, float)) for each in (expected, given)))


def places(values: np.ndarray) -> np.ndarray:
    """Give each number's rank, equal ones the mean of theirs: (N,) float to (N,) float."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
