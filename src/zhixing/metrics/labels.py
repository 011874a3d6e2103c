"""How good labelled answers are: accuracy, macro-F1, calibration, and how much can be answered at a given precision.

Arrays of one value an example go in; intervals are made from such arrays in `intervals.py`. Labels are numbered 0 <= label < V.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of the calibration error: Guo et al. 2017, arXiv:1706.04599, section 2


def accuracy(expected: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Give the share of examples whose answer is the expected label."""
    return float(np.mean(np.asarray(expected) == np.asarray(predicted)))


def confusion(expected: NDArray[np.integer], predicted: NDArray[np.integer], labels: int) -> NDArray[np.int64]:
    """Count how often each label was answered by each.

    expected   (B,) int
    predicted  (B,) int
    return     (V, V) int  rows are expected, columns are answered
    """
    cells = np.asarray(expected, dtype=np.int64) * labels + np.asarray(predicted, dtype=np.int64)  # (B,)
    return np.bincount(cells, minlength=labels * labels).reshape(labels, labels)  # (V, V)


def f1(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give each label's F1 from a confusion table; NaN for a label that was neither expected nor answered.

    counts  (V, V) int
    return  (V,) float
    """
    together = counts.sum(axis=0) + counts.sum(axis=1)  # (V,)
    return np.divide(2.0 * np.diag(counts), together, out=np.full(len(counts), np.nan), where=together > 0)


def macro_f1(expected: NDArray[np.integer], predicted: NDArray[np.integer], labels: int) -> float:
    """Average the F1 of the labels that were expected or answered at least once, as scikit-learn does by default."""
    return float(np.nanmean(f1(confusion(expected, predicted, labels))))


def macro_f1_of_all(expected: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Give `macro_f1` over as many labels as there are."""
    return macro_f1(expected, predicted, 1 + max(int(np.max(expected)), int(np.max(predicted))))


def macro_f1_of_sets(expected: NDArray[np.floating], given: NDArray[np.floating]) -> float:
    """Average the F1 of the labels that were expected or given at least once, where an example may have several.

    expected  (B, V) 0 or 1, and given the same
    """
    together = expected.sum(0) + given.sum(0)  # (V,)
    there = together > 0
    return float((2 * (expected * given).sum(0)[there] / together[there]).mean()) if there.any() else float("nan")


def matthews(expected: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Give Matthews' correlation of several labels: 1 all right, 0 as chance has it; 0 as well where one label was all that was said.

    Source: Gorodkin 2004 (the coefficient for more than two labels).
    """
    table = confusion(expected, predicted, 1 + max(int(np.max(expected)), int(np.max(predicted)))).astype(np.float64)  # (V, V)
    total, right = table.sum(), np.trace(table)
    rows, columns = table.sum(1), table.sum(0)
    spread = (total**2 - columns @ columns) * (total**2 - rows @ rows)
    return float((right * total - rows @ columns) / np.sqrt(spread)) if spread > 0 else 0.0


def calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Give the expected calibration error: how far confidence lies from accuracy, averaged over bins of equally many examples.

    Examples of one confidence stay in one bin, so that the order of rows does not matter.

    Source: Nixon et al. 2019, arXiv:1904.01685 (adaptive bins). Differs: only the answered label's confidence is judged.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    place = place_evenly(confidence, bins)
    gap = np.bincount(place, weights=confidence - np.asarray(correct, dtype=np.float64), minlength=bins)  # (bins,)
    return float(np.abs(gap).sum() / len(confidence))


def place_evenly(confidence: NDArray[np.floating], bins: int) -> NDArray[np.int64]:
    """Put examples into bins of equal numbers by their confidence, equal ones into one: (B,) float to (B,) int."""
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, confidence, side="right")


def calibration_chance(confidence: NDArray[np.floating], bins: int = BINS) -> float:
    """Give the calibration error to be expected of so many examples when every confidence is exactly right: none can do better.

    confidence  (B,) float in [0, 1]

    In each bin the gap is the sum of independent draws, nearly normal, whose mean size is sqrt(2 / pi) of its deviation.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    spread = np.bincount(place_evenly(confidence, bins), weights=confidence * (1 - confidence), minlength=bins)  # (bins,)
    return float(np.sqrt(2 / np.pi * spread).sum() / len(confidence))


def calibration_beyond_chance(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Give the root of the mean squared gap of the bins less what chance adds to it: 0 where chance explains all of it.

    The root of a mean square is never below the mean that `calibration_error` estimates, so this is no kinder, only without its bias.
    Source: Kumar, Liang and Ma 2019, arXiv:1909.10155, definition 4.1 (the debiased estimator).
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    place, gap = place_evenly(confidence, bins), confidence - np.asarray(correct, dtype=np.float64)
    count, total, squares = (np.bincount(place, weights=each, minlength=bins) for each in (np.ones(len(gap)), gap, gap**2))
    each = (total**2 - squares) / np.maximum(count - 1, 1)  # (bins,) pairs of two different examples only, times the examples
    return float(np.sqrt(max(0.0, each.sum() / len(gap))))


def coverage_at_precision(confidence: NDArray[np.floating], correct: NDArray[np.bool_], precision: float) -> tuple[float, float | None]:
    """Give the largest share of examples, taken by descending confidence, of which at least `precision` are right.

    Examples of one confidence are taken together or not at all. Precision may dip below the mark and rise above it again: the largest
    share counts, not the first.

    The threshold is picked on the very examples given: the best that is possible on them, the usual figure of selective classification,
    and so a little better than what a threshold reaches that was chosen elsewhere (`precision_at_threshold`).

    return  the share, and the confidence from which on to answer; (0.0, None) when no share is precise enough
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    taken = np.arange(1, len(order) + 1)
    right = np.cumsum(np.asarray(correct, dtype=np.int64)[order])
    whole = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)[: len(order)]
    # A hair of slack: 0.98 * 50 is 49 on paper and a little more in floating point.
    enough = np.flatnonzero(whole & (right >= precision * taken - 1e-9 * taken))
    if len(enough) == 0:
        return 0.0, None
    last = enough[-1]
    return float(taken[last] / len(order)), float(sorted_confidence[last])


def precision_at_threshold(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], threshold: float | None
) -> tuple[float, float | None]:
    """Give the share of examples answered at or above a threshold that was chosen elsewhere, and the share of those that is right.

    return  coverage, and precision; (0.0, None) when nothing is answered
    """
    if threshold is None:
        return 0.0, None
    answered = np.asarray(confidence) >= threshold
    return float(answered.mean()), float(np.asarray(correct)[answered].mean()) if answered.any() else None


def area_under_curve(scores: NDArray[np.floating], events: NDArray[np.floating]) -> float:
    """Give the probability that an event has a higher score than what is none, ties counting half: the area under the ROC curve.

    scores  (B,) float
    events  (B,) 0 or 1      NaN where all are of one sort

    Source: Mann and Whitney 1947, by ranks.
    """
    happened = np.asarray(events) > 0
    wins, losses = int(happened.sum()), int((~happened).sum())
    if not wins or not losses:
        return float("nan")
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # (B,) from 1, ties share their mean
    return float((ranks[happened].sum() - wins * (wins + 1) / 2) / (wins * losses))
