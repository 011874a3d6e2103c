"""Logistic regression on the pixels of small pictures: the linear rival of everything that sees.

Reads with NumPy; scikit-learn only fits. Leaves out: any invariance; a shape that moves is another picture to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import UsageError
from zhixing.models.bag import normalise
from zhixing.models.tables import FEW, check_labels, judge

REMARKS = frozenset({"architectures"})
STRENGTHS = (100.0, 10.0, 1.0)
STEPS = 200  # of L-BFGS
MOST = 10_000  # pictures that are fitted, spread over the rows: a few hundred weights a label ask for no more


@dataclass(frozen=True)
class PixelsConfig:
    """How many labels there are, pixels of a side, and the precision of the Gaussian prior over weights."""

    label_count: int
    size: int
    strength: float = 1.0
    model_type: str = "pixels"


class Pixels:
    """Logistic regression on standardised pixels.

    means, deviations  (N,) float64           of each number of a picture
    weights            (N, labels) float64    bias: (labels,) float64
    """

    arrays = True
    sense = "image"

    def __init__(self, config: PixelsConfig, means: np.ndarray, deviations: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.config = config
        self.means, self.deviations, self.weights, self.bias = means, deviations, weights, bias

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray, label_count: int, strength: float = 1.0) -> Pixels:
        """Fit the mode of the posterior.

        images  (B, C, Y, X) float or uint8
        labels  (B,) int    0 <= label < label_count

        Raises UsageError for a strength that is none, DataError for labels that do not fit.
        """
        from sklearn.linear_model import LogisticRegression

        if not strength > 0:
            raise UsageError("fit.strength", value=strength)
        labels = check_labels("pixels", len(images), labels, label_count)
        chosen = np.linspace(0, len(images) - 1, min(MOST, len(images))).astype(int)
        numbers, labels = images[chosen].reshape(len(chosen), -1).astype(np.float64), labels[chosen]
        means, deviations = numbers.mean(0), numbers.std(0)
        deviations[deviations == 0] = 1
        seen = np.unique(labels)
        weights, bias = np.zeros((numbers.shape[1], label_count)), np.full(label_count, np.log(FEW))
        bias[seen] = 0
        if len(seen) > 1:
            found = LogisticRegression(C=1 / strength, max_iter=STEPS, tol=1e-4).fit((numbers - means) / deviations, labels)
            one = len(seen) == 2  # scikit-learn gives the log-odds of the second label only
            weights[:, seen] = np.stack([-found.coef_[0] / 2, found.coef_[0] / 2], 1) if one else found.coef_.T
            bias[seen] = [-found.intercept_[0] / 2, found.intercept_[0] / 2] if one else found.intercept_
        return cls(PixelsConfig(label_count, images.shape[-1], float(strength)), means, deviations, weights, bias)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Give p(label | picture), each (C, Y, X) uint8 of this size or a multiple of it: (B, labels) float64, each row sums to 1."""
        size = self.config.size
        small = [shrink(each, size) for each in images]
        numbers = np.stack(small).reshape(len(small), -1) if small else np.zeros((0, len(self.means)))
        return normalise((numbers - self.means) / self.deviations @ self.weights + self.bias)

    def nats(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Give the mean of -log p(label): (B, C, Y, X) uint8 and (B,) int."""
        return judge(self.probabilities(list(images)), labels)

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"means": self.means, "deviations": self.deviations, "weights": self.weights, "bias": self.bias}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Pixels:
        """Build the model again from its configuration and its saved arrays."""
        names = ("means", "deviations", "weights", "bias")
        return cls(read(PixelsConfig, dict(config), REMARKS), *(np.array(tensors[name]) for name in names))


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Average a picture's pixels in squares: (C, Y, X) uint8 to (C, Y', X') float64; its side is a multiple of the size."""
    C, Y, X = image.shape
    return image.reshape(C, size, Y // size, size, X // size).mean((2, 4))
