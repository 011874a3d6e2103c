"""Several labels a text by counting: logistic regression for each label against the rest on one bag of n-grams, and the most frequent set.

The features are those of the bag (models/bag.py); every label has weights of its own, and one search finds them all, since their losses
only add up.
Source: Joachims 1998 (one linear classifier a category). Leaves out: what one label says of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.models.bag import ROWS_AT_ONCE, STEPS, STRENGTHS, TOLERANCE, BagConfig, count_columns, learn_columns, scale, weigh_rare

REMARKS = frozenset({"architectures"})
FEW = 1e-12


@dataclass(frozen=True)
class EachConfig:
    """How many labels there are, and the precision of the Gaussian prior over each weight."""

    label_count: int
    strength: float = STRENGTHS["logistic"][2]
    model_type: str = "bag_each"


class BagEach:
    """A linear model of p(text has the label) for each label.

    columns  (F,) int32 sorted      hashes of the features that are kept
    idf      (F,) float32           what a feature's frequency is multiplied by
    weights  (F, labels) float32    a feature's share of each label's log-odds
    bias     (labels,) float64
    """

    arrays = True

    def __init__(self, config: EachConfig, columns: np.ndarray, idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.config = config
        self.columns, self.idf, self.weights, self.bias = columns, idf, weights, bias

    @classmethod
    def fit(cls, texts: Sequence[str], wanted: np.ndarray, strength: float = 0.0, start: BagEach | None = None) -> BagEach:
        """Fit the mode of the posterior, least  sum of -log p(label there or not)  +  strength / 2 * sum of weights^2.

        texts   B str
        wanted  (B, labels) bool
        start   a model of another strength over the same texts; the search begins at its weights instead of at zero
        """
        from scipy.optimize import minimize

        wanted = np.asarray(wanted, np.float64)
        if len(texts) != len(wanted) or not wanted.size:
            raise DataError("fit.rows", model="bag_each", rows=len(texts), answers=len(wanted))
        config = EachConfig(wanted.shape[1], float(strength or STRENGTHS["logistic"][2]))
        columns, counts = learn_columns(texts, BagConfig(wanted.shape[1]))
        idf = weigh_rare(counts)
        features = scale(counts, idf)
        flipped, width, labels = features.T.tocsr(), features.shape[1], wanted.shape[1]

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            weights, bias = point[: width * labels].reshape(width, labels), point[width * labels :]
            odds = features @ weights.astype(np.float32) + bias  # (B, labels)
            value = (np.logaddexp(0, odds) - wanted * odds).sum() + config.strength / 2 * (weights**2).sum()
            gap = sigmoid(odds) - wanted
            return value, np.concatenate([(flipped @ gap.astype(np.float32) + config.strength * weights).ravel(), gap.sum(0)])

        begin = np.zeros(width * labels + labels)
        if start is not None:
            begin = np.concatenate([start.weights.astype(np.float64).ravel(), start.bias])
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": TOLERANCE, "gtol": 0}).x
        return cls(config, columns, idf, found[: width * labels].reshape(width, labels).astype(np.float32), found[width * labels :])

    @classmethod
    def choose(cls, texts: Sequence[str], wanted: np.ndarray, held: tuple[Sequence[str], np.ndarray]) -> tuple[BagEach, dict[float, float]]:
        """Fit at a few strengths, the strongest first, and keep the one that is best on held-out texts; say what each gave, in nats."""
        best, found = None, {}
        bag = None
        for strength in STRENGTHS["logistic"]:
            bag = cls.fit(texts, wanted, strength, bag)
            p = np.where(held[1], bag.probabilities(held[0]), 1 - bag.probabilities(held[0]))
            found[strength] = float(-np.log(np.maximum(p, FEW)).mean())
            if best is None or found[strength] < found[best.config.strength]:
                best = bag
            elif found[strength] > found[best.config.strength]:
                break  # the loss falls and then rises along the strengths
        assert best is not None
        return best, found

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Give p(text has the label): (B, labels) float64, each of its own."""
        texts = list(texts)
        parts = [np.zeros((0, self.config.label_count))]
        for start in range(0, len(texts), ROWS_AT_ONCE):
            counts = count_columns(texts[start : start + ROWS_AT_ONCE], self.columns, BagConfig(self.config.label_count))
            parts.append(sigmoid((scale(counts, self.idf) @ self.weights).astype(np.float64) + self.bias))
        return np.concatenate(parts)

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"columns": self.columns, "idf": self.idf, "weights": self.weights, "bias": self.bias}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> BagEach:
        """Build the model again from its configuration and its saved arrays."""
        names = ("columns", "idf", "weights", "bias")
        return cls(read(EachConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in names))


@dataclass(frozen=True)
class SetConfig:
    """How many labels there are."""

    label_count: int
    model_type: str = "frequent_set"


class FrequentSet:
    """The most frequent set of labels, whatever the text says.

    shares  (labels,) float64    how often each label stands in training, or as near to that as leaves the set's labels above a half
    """

    arrays = True

    def __init__(self, config: SetConfig, shares: np.ndarray) -> None:
        self.config, self.shares = config, shares

    @classmethod
    def fit(cls, wanted: np.ndarray) -> FrequentSet:
        """Count the sets, (B, labels) bool; the first of equals."""
        wanted = np.asarray(wanted, bool)
        if not wanted.size:
            raise DataError("fit.rows", model="frequent_set", rows=len(wanted), answers=len(wanted))
        (best, _), *_ = Counter(map(bytes, wanted)).most_common(1)
        shares, inside = wanted.mean(0), np.frombuffer(best, bool)
        return cls(SetConfig(wanted.shape[1]), np.where(inside, np.maximum(shares, 0.501), np.minimum(shares, 0.499)))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Give the same shares for every text: (B, labels) float64."""
        return np.tile(self.shares, (len(texts), 1))

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"shares": self.shares}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> FrequentSet:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(SetConfig, dict(config), REMARKS), np.asarray(tensors["shares"]))


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """Turn log-odds into probabilities, without overflow."""
    return np.exp(-np.logaddexp(0, -odds))
