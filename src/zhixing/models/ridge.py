"""Ridge regression of a number on one or several texts: words and character n-grams of each by TF-IDF, and how much the texts share.

Each field keeps its own features, so that a word of the question is not a word of the answer; between any two fields stand the shares of
common n-grams in either direction and the ratio of lengths, which is what joins a short answer to its reference; and what of the second
text is not in the first is one more field, since not all that an answer leaves out is worth as much. The strength of the prior
is the best by leaving one row out, exactly, or on held rows.
Sources: Hoerl & Kennard 1970; leave-one-out from one decomposition: Allen 1974, Golub, Heath & Wahba 1979; overlap for short answers:
Mohler & Mihalcea 2009. Reads with NumPy and SciPy. Leaves out: the order of grades (a number is a number), synonyms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError
from zhixing.models.bag import BagConfig, count_columns, learn_columns, scale, weigh_rare

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REMARKS = frozenset({"architectures"})
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
GRAMS = (1, 2, 3)  # characters, whose shares two texts have in common
EXACT_ROWS = 2500  # up to here one decomposition of the rows' products; beyond, a search for each strength
HELD_OUT = 10  # one row in so many chooses the strength where rows are more than EXACT_ROWS and none are held
STEPS = 300  # of the search
TEXT, PAIRS = BagConfig(1), BagConfig(1, words=1, characters=(9, 9), han=0)  # how a text is read, and what is left out: pairs of characters
MARKS = (",，;；", ".。!！?？")
LONG = 6  # characters; longer words are counted

Texts = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class RidgeConfig:
    """How many texts a row has, the strength of the prior, and the lowest and highest number seen: answers stay between them."""

    fields: int
    strength: float
    low: float
    high: float
    model_type: str = "ridge"


def split_grams(text: str, length: int) -> set[str]:
    """Give the character n-grams of a text, small letters, without blanks."""
    text = "".join(text.lower().split())
    return {text[i : i + length] for i in range(len(text) - length + 1)}


def compare(row: tuple[str, ...]) -> list[float]:
    """Measure a row: the logarithm of each length; of the first text its words and marks; of each pair what is common, and the lengths."""
    lengths = [np.log1p(len("".join(text.split()))) for text in row]
    words = "".join(letter if letter.isalnum() else " " for letter in row[0].lower()).split() if row else []
    found = [
        *lengths,
        *(len(words) ** power for power in (0.25, 0.5)),
        len(set(words)) ** 0.5,
        sum(len(each) > LONG for each in words) ** 0.5,
    ]
    found += [sum(map(len, words)) / max(len(words), 1)]
    found += [sum(letter in marks for letter in row[0]) ** 0.5 for marks in MARKS] if row else []
    pieces = [[*(split_grams(text, n) for n in GRAMS), set(text.lower().split())] for text in row]
    for one, other in itertools.combinations(range(len(row)), 2):
        for a, b in zip(pieces[one], pieces[other], strict=True):
            common = len(a & b)
            found += [common / max(len(a), 1), common / max(len(b), 1)]
        found.append(abs(lengths[one] - lengths[other]))
    return found


def split_fields(rows: Texts) -> list[tuple[Sequence[str], BagConfig]]:
    """Give the texts of each field with how they are read, and of two fields or more also what the second has that the first has not."""
    fields: list[tuple[Sequence[str], BagConfig]] = [(texts, TEXT) for texts in zip(*rows, strict=True)]
    if len(fields) > 1:
        fields.append(([" ".join(sorted(split_grams(row[1], 2) - split_grams(row[0], 2))) for row in rows], PAIRS))
    return fields


class Ridge:
    """A linear model of a number over several texts.

    columns, idf       for each of `split_fields` (F,) int32 sorted and (F,) float32, as in bag.py
    centre, deviation  (C,) float64          of the measures that compare texts
    weights            (F,) float64          of all fields' features in order, then of the measures
    bias               (1,) float64
    """

    arrays = True

    def __init__(
        self,
        config: RidgeConfig,
        columns: Sequence[np.ndarray],
        idf: Sequence[np.ndarray],
        centre: np.ndarray,
        deviation: np.ndarray,
        weights: np.ndarray,
        bias: np.ndarray,
    ) -> None:
        self.config = config
        self.columns, self.idf = list(columns), list(idf)
        self.centre, self.deviation = centre, deviation
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(
        cls,
        rows: Texts,
        values: Sequence[float],
        held: tuple[Texts, Sequence[float]] | None = None,
        strength: float | None = None,
    ) -> Ridge:
        """Fit the mode of the posterior under a Gaussian prior; the bias is free.

        rows      B tuples of as many texts each
        values    (B,) float
        held      rows and values that choose the strength; None: leaving one out chooses it, or one row in HELD_OUT where rows are many
        strength  ratio of the noise's variance to the weights'; None: the best of STRENGTHS

        Raises DataError naming the row that has another number of texts or no finite number.
        """
        values = np.asarray(values, np.float64)
        count = len(rows[0]) if len(rows) else 0
        if strength is not None and not strength > 0:
            raise UsageError("fit.strength", value=strength)
        check(rows, values, count)
        learnt = [learn_columns(list(texts), reading) for texts, reading in split_fields(rows)]
        columns, idf = [each for each, _ in learnt], [weigh_rare(counts) for _, counts in learnt]
        measures = np.array([compare(row) for row in rows])
        centre, deviation = measures.mean(0), measures.std(0)
        deviation[deviation < 1e-9] = 1
        config = RidgeConfig(count, strength or 1.0, float(values.min()), float(values.max()))
        model = cls(config, columns, idf, centre, deviation, np.zeros(0), np.zeros(1))
        features = model.widen(rows)
        strengths = STRENGTHS if strength is None else (float(strength),)
        solve = decompose(features, values) if len(rows) <= EXACT_ROWS else search(features, values)
        if len(strengths) > 1 and held is not None and len(held[0]):
            wanted = np.asarray(held[1], np.float64)
            check(held[0], wanted, count)
            seen = model.widen(held[0])
            errors = [squared(seen, solve(each), wanted) for each in strengths]
        elif len(strengths) > 1 and len(rows) <= EXACT_ROWS:
            errors = [solve(each)[2] for each in strengths]
        elif len(strengths) > 1:
            out = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
            part = search(features[~out], values[~out])
            errors = [squared(features[out], part(each), values[out]) for each in strengths]
        else:
            errors = [0.0]
        best = strengths[int(np.argmin(errors))]
        weights, bias, _ = solve(best)
        config = RidgeConfig(count, best, config.low, config.high)
        return cls(config, columns, idf, centre, deviation, weights, np.array([bias]))

    @classmethod
    def constant(cls, fields: int, values: Sequence[float]) -> Ridge:
        """Say the mean of some numbers of every row: the least that a regression can be."""
        numbers = np.asarray(values, np.float64)
        check([("",) * fields] * len(numbers), numbers, fields)
        measures = np.zeros(len(compare(("",) * fields)))
        count = len(split_fields([("",) * fields]))
        empty = [np.zeros(0, np.int32)] * count, [np.zeros(0, np.float32)] * count
        config = RidgeConfig(fields, 1.0, float(numbers.min()), float(numbers.max()))
        return cls(config, *empty, measures, measures + 1, measures, np.asarray(numbers.mean()))

    def widen(self, rows: Texts) -> csr_matrix:
        """Turn rows into what the weights stand for: (B, F) float64."""
        from scipy.sparse import csr_matrix, hstack

        parts = [
            scale(count_columns(list(texts), columns, reading), idf)
            for (texts, reading), columns, idf in zip(split_fields(rows), self.columns, self.idf, strict=True)
        ]
        measures = (np.array([compare(row) for row in rows]) - self.centre) / self.deviation
        return hstack([*parts, csr_matrix(measures)], format="csr", dtype=np.float64)

    def predict(self, rows: Texts) -> np.ndarray:
        """Give the number of each row, inside the range that training has shown: (B,) float64."""
        if not len(rows):
            return np.zeros(0)
        check(rows, np.zeros(len(rows)), self.config.fields)
        return np.clip(self.widen(rows) @ self.weights + self.bias, self.config.low, self.config.high)

    @property
    def prior(self) -> dict[str, Any]:
        """The prior by name, strength and what has so much of it."""
        return {"name": "gaussian", "strength": self.config.strength, "per": "weight"}

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        found = {"centre": self.centre, "deviation": self.deviation, "weights": self.weights, "bias": self.bias}
        for place, (columns, idf) in enumerate(zip(self.columns, self.idf, strict=True)):
            found |= {f"columns.{place}": columns, f"idf.{place}": idf}
        return found

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Ridge:
        """Build the model again from its configuration and its saved arrays."""
        config = read(RidgeConfig, dict(config), REMARKS)
        count = len(split_fields([("",) * config.fields]))
        fields = [[np.asarray(tensors[f"{name}.{place}"]) for place in range(count)] for name in ("columns", "idf")]
        return cls(config, *fields, *(np.asarray(tensors[name]) for name in ("centre", "deviation", "weights", "bias")))


def check(rows: Texts, values: np.ndarray, fields: int) -> None:
    """Raise when there is nothing to read, a row has another number of texts, or a value is not finite."""
    if not len(rows) or len(rows) != len(values):
        raise DataError("fit.rows", model="ridge", rows=len(rows), answers=len(values))
    for place, row in enumerate(rows):
        if len(row) != fields or isinstance(row, str):
            raise DataError("ridge.fields", row=place, texts=1 if isinstance(row, str) else len(row), fields=fields)
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError("ridge.value", row=wrong, value=values[wrong])


Solution = tuple[np.ndarray, float, float]  # weights, bias, mean squared error by leaving one out (NaN where it is not known)


def squared(features: csr_matrix, solution: Solution, values: np.ndarray) -> float:
    """Give the mean squared error of a solution on other rows."""
    return float(((features @ solution[0] + solution[1] - values) ** 2).mean())


def decompose(features: csr_matrix, values: np.ndarray) -> Callable[[float], Solution]:
    """Prepare the exact solution at any strength, from the eigenvectors of the rows' centred products.

    The prediction of a row by all others is known from the fit on all: error_i / (1 - hat_ii). Source: Allen 1974.
    """
    rows = len(values)
    products = np.asarray((features @ features.T).todense(), np.float64)  # (B, B)
    products -= products.mean(0) + products.mean(1)[:, None] - products.mean()
    size, vectors = np.linalg.eigh(products)
    size = np.maximum(size, 0)
    mean = values.mean()
    turned = vectors.T @ (values - mean)

    def solve(strength: float) -> Solution:
        dual = vectors @ (turned / (size + strength))
        weights = features.T @ (dual - dual.mean())
        bias = mean - float((features @ weights).mean())
        hat = (vectors**2) @ (size / (size + strength)) + 1 / rows
        alone = strength * dual / np.maximum(1 - hat, 1e-12)
        return weights, bias, float((alone**2).mean())

    return solve


def search(features: csr_matrix, values: np.ndarray) -> Callable[[float], Solution]:
    """Prepare the solution at any strength by LSMR (Fong & Saunders 2011) on centred columns."""
    from scipy.sparse.linalg import LinearOperator, lsmr

    means, mean = np.asarray(features.mean(0)).ravel(), values.mean()
    flipped = features.T.tocsr()
    centred = LinearOperator(
        features.shape, matvec=lambda v: features @ v.ravel() - means @ v.ravel(), rmatvec=lambda u: flipped @ u - means * u.sum()
    )

    def solve(strength: float) -> Solution:
        weights = lsmr(centred, values - mean, damp=np.sqrt(strength), maxiter=STEPS)[0]
        return weights, float(mean - means @ weights), float("nan")

    return solve
