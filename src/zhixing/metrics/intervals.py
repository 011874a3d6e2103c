"""How sure a figure is: percentile bootstrap intervals, and the paired bootstrap between two models on the same examples.

The units that are drawn with replacement are examples, or blocks of a text (`text.blocks`). Everything is a pure function of the values
and the seed. Source: Efron and Tibshirani 1993, chapters 13 and 16; Koehn 2004 for the paired test.
Shares of examples have Wilson's interval instead, which holds where all or none are right, and there a bootstrap sees no doubt at all.
Leaves out: bias-corrected intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 2000  # the ends of a 95 % interval then stand on 50 draws each
ENOUGH = 20  # units; drawing from fewer gives intervals that are far too narrow
CHUNK = 1 << 21  # indices drawn at once: 16 MiB


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float
    level: float

    def to_dict(self) -> dict[str, float]:
        """Give the interval as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A difference first minus second, its interval, and how often chance would bring one so far from zero (two-sided)."""

    value: float
    low: float
    high: float
    level: float
    p: float

    def to_dict(self) -> dict[str, float]:
        """Give the difference as plain values."""
        return asdict(self)


def draws(count: int, seed: int, rounds: int = ROUNDS) -> Iterator[NDArray[np.int64]]:
    """Draw `rounds` samples of `count` indices with replacement, (B, N) at a time, as many as memory allows."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(count, 1))
    for done in range(0, rounds, step):
        yield generator.integers(0, count, size=(min(step, rounds - done), count))


def _ends(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    samples = samples[np.isfinite(samples)]  # a draw may hold nothing to take the figure from
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2]) if len(samples) else (np.nan, np.nan)
    return float(low), float(high)


def wilson(right: int, count: int, level: float = 0.95) -> Interval:
    """Give a share with Wilson's score interval.

    right  of `count` examples, at least one

    Source: Wilson 1927; Brown, Cai and DasGupta 2001 for how well it covers.
    """
    share = right / count
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)), level)


def interval(values: NDArray[np.number], seed: int, level: float = 0.95, rounds: int = ROUNDS) -> Interval:
    """Give the mean of one value an example, with its interval.

    values  (N,) float, at least one
    """
    values = np.asarray(values, dtype=np.float64)
    samples = np.concatenate([values[index].mean(axis=1) for index in draws(len(values), seed, rounds)])
    return Interval(float(values.mean()), *_ends(samples, level), level)


def interval_of_ratio(
    totals: NDArray[np.number], sizes: NDArray[np.number], seed: int, level: float = 0.95, rounds: int = ROUNDS
) -> Interval:
    """Give sum of totals over sum of sizes, with its interval: bits over bytes, block by block.

    totals  (N,) float
    sizes   (N,) float, their sum above 0
    """
    totals, sizes = np.asarray(totals, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    samples = [totals[index].sum(axis=1) / sizes[index].sum(axis=1) for index in draws(len(totals), seed, rounds)]
    return Interval(float(totals.sum() / sizes.sum()), *_ends(np.concatenate(samples), level), level)


def interval_of(
    statistic: Callable[..., float], *arrays: NDArray[np.generic], seed: int, level: float = 0.95, rounds: int = ROUNDS
) -> Interval:
    """Give any statistic of aligned arrays, with its interval; examples are drawn together from all arrays."""
    arrays = tuple(np.asarray(each) for each in arrays)
    samples = [statistic(*(each[row] for each in arrays)) for index in draws(len(arrays[0]), seed, rounds) for row in index]
    return Interval(float(statistic(*arrays)), *_ends(np.asarray(samples, dtype=np.float64), level), level)


def paired(
    first: NDArray[np.number],
    second: NDArray[np.number],
    seed: int,
    sizes: NDArray[np.number] | None = None,
    level: float = 0.95,
    rounds: int = ROUNDS,
) -> Difference:
    """Compare two models on the same examples: the mean of first minus second, its interval and its p.

    first, second  (N,) float    one value an example, or with sizes totals a block
    sizes          (N,) float    None: each example counts 1

    Resampling the same rows for both takes out what is hard for both alike.
    """
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    weights = np.ones(len(gaps)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    samples = np.concatenate([gaps[index].sum(axis=1) / weights[index].sum(axis=1) for index in draws(len(gaps), seed, rounds)])
    return _difference(float(gaps.sum() / weights.sum()), samples, level)


def paired_of(
    statistic: Callable[..., float],
    first: Sequence[NDArray[np.generic]],
    second: Sequence[NDArray[np.generic]],
    seed: int,
    level: float = 0.95,
    rounds: int = ROUNDS,
) -> Difference:
    """Compare two models on the same examples by any statistic of aligned arrays: first minus second, its interval and its p.

    first, second  arrays (N, ...) of each model, as the statistic takes them
    """

    def gap(rows: Any) -> float:
        return float(statistic(*(each[rows] for each in first))) - float(statistic(*(each[rows] for each in second)))

    samples = np.array([gap(row) for index in draws(len(first[0]), seed, rounds) for row in index])
    return _difference(gap(slice(None)), samples, level)


def _difference(value: float, samples: NDArray[np.float64], level: float) -> Difference:
    # One is added on both sides: a bootstrap of R rounds cannot say less than 1 / (R + 1).
    tails = (np.count_nonzero(samples <= 0) + 1, np.count_nonzero(samples >= 0) + 1)
    p = min(1.0, 2 * min(tails) / (len(samples) + 1))
    return Difference(value, *_ends(samples, level), level, p)
