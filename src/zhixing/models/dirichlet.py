"""How strong a Dirichlet prior over n-gram counts should be: held-out loss against strength, for every order at once.

A context's next-token probabilities have a Dirichlet prior of so many pseudo-counts, shared out evenly (additive) or by the shorter
context's probabilities (dirichlet); its posterior's mean is what predicts (models/counts.py, `under_prior`). Weak priors overfit: what
training never saw costs nearly infinitely much. Strong ones forget the counts. Between them lies the strength that held-out text prefers.
Sources: MacKay & Peto 1995, "A hierarchical Dirichlet language model"; Chen & Goodman 1998, section 2.1, for how additive smoothing loses.
Differs: the strength is one for all contexts of all orders and is chosen on held-out text; MacKay & Peto infer one for each length of
context by the evidence, and infer the shares as well instead of taking the shorter context's own posterior.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from zhixing.models.counts import OUTSIDE, contexts_before, count_levels, make_level, reaches, under_prior
from zhixing.models.ngram import check_choice

CHOICE_TOKENS = 1 << 20  # of held-out text, read at most for a choice


def grid(low: int, high: int) -> tuple[float, ...]:
    """Give four strengths a decade from 10^low to 10^high."""
    return tuple(float(f"{10 ** (place / 4):.3g}") for place in range(4 * low, 4 * high + 1))


# Pseudo-counts: a token after each context (additive), a context (dirichlet).
STRENGTHS = {"additive": grid(-4, 1), "dirichlet": grid(-1, 4)}
Curves = dict[str, dict[float, float]]  # {smoothing: {strength: nats per token}}


def curves(
    train: np.ndarray,
    validation: np.ndarray | None,
    vocabulary: int,
    end_id: int,
    orders: Iterable[int] = range(1, 8),
    strengths: dict[str, tuple[float, ...]] = STRENGTHS,
) -> Iterator[tuple[int, Curves]]:
    """Give the held-out loss of every smoothing and strength, order by order; each costs one sort more.

    train       (N,) int
    validation  (N',) int or None   None: the last 5 % of the training tokens stand apart
    strengths   {"additive" or "dirichlet": what to try}
    """
    train, validation, wanted = check_choice(train, validation, vocabulary, end_id, orders)
    validation = validation[: CHOICE_TOKENS + 1]
    reach, targets = reaches(validation, end_id), validation[1:].astype(np.int64)
    uniform = np.full(len(targets), 1 / vocabulary)
    p = {(smoothing, strength): uniform for smoothing, each in strengths.items() for strength in each}
    grams, parents = np.zeros(len(targets), np.int64), 1
    for order, (keys, raw, _) in zip(range(1, wanted[-1] + 1), count_levels(train, vocabulary, end_id), strict=False):
        level = make_level(keys, raw, parents, vocabulary, 1.0)
        contexts = contexts_before(validation, order - 1, reach, grams)
        grams, parents = level.find(contexts, targets, vocabulary), len(keys)
        losses: Curves = {smoothing: {} for smoothing in strengths}
        for (smoothing, strength), shorter in p.items():
            alike = smoothing == "additive"
            believed = np.where(contexts == OUTSIDE, shorter, uniform) if alike else shorter
            found = under_prior(level, strength * vocabulary if alike else strength).take(believed, contexts, grams)
            p[smoothing, strength] = found
            losses[smoothing][strength] = float(-np.log(found).mean())
        if order in wanted:
            yield order, losses


def choose(
    train: np.ndarray,
    validation: np.ndarray | None,
    vocabulary: int,
    end_id: int,
    smoothing: str,
    orders: Iterable[int] = range(1, 8),
    strengths: tuple[float, ...] = (),
) -> tuple[int, float, dict[int, tuple[float, float]]]:
    """Find the order and the strength of the lowest held-out loss; go up the orders until the loss has risen twice.

    strengths  what to try; none: STRENGTHS
    return     order, strength, and for each order its best strength and that one's nats per token
    """
    trials: dict[int, tuple[float, float]] = {}
    for order, losses in curves(train, validation, vocabulary, end_id, orders, {smoothing: strengths or STRENGTHS[smoothing]}):
        strength, nats = min(losses[smoothing].items(), key=lambda each: each[1])
        trials[order] = (strength, nats)
        last = [nats for _, nats in trials.values()][-3:]
        if len(last) == 3 and last[2] > last[1] > last[0]:
            break
    best = min(trials, key=lambda order: (trials[order][1], order))
    return best, trials[best][0], trials
