"""How good tags are: spans of BIO tags, found exactly, as CoNLL counts them; where tags mark no spans, each token is one.

A span is a type with its first and last token. What counts is summed over texts, so that figures are functions of one row of counts a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OUTSIDE = "O"


def read(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Give the spans of a sequence of tags: (type, first, last + 1); an I-x that continues nothing begins a span, as CoNLL reads it."""
    if not any(tag[:2] in ("B-", "I-") for tag in tags):
        return {(tag, place, place + 1) for place, tag in enumerate(tags) if tag != OUTSIDE}
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            found.add((kind, start, place))
            kind = ""
        if tag != OUTSIDE and not goes_on:
            kind, start = (tag[2:] if tag[:2] in ("B-", "I-") else tag), place
    return found


def count(expected: Sequence[str], answered: Sequence[str]) -> tuple[int, int, int]:
    """Count a text's spans: found in both, answered, expected."""
    wanted, said = read(expected), read(answered)
    return len(wanted & said), len(said), len(wanted)


def f1(spans: np.ndarray) -> float:
    """Give F1 over all texts together: (N, 3) counts -> 0..1; 0 where there is nothing to find and nothing was said."""
    found, answered, expected = spans.sum(0)
    return float(2 * found / (answered + expected)) if answered + expected else 0.0


def precision(spans: np.ndarray) -> float:
    """Give the share of the answered spans that are right."""
    found, answered, _ = spans.sum(0)
    return float(found / answered) if answered else 0.0


def recall(spans: np.ndarray) -> float:
    """Give the share of the expected spans that are found."""
    found, _, expected = spans.sum(0)
    return float(found / expected) if expected else 0.0


def share(right: np.ndarray, all_of_them: np.ndarray) -> float:
    """Give the sum of one array over that of another."""
    return float(right.sum() / all_of_them.sum())
