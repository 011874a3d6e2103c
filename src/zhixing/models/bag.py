"""A bag of hashed word and character n-grams with naive Bayes or logistic regression on it: the linear classifier of texts.

One function reads raw text of any language: words and pairs of words where words stand apart, characters in runs of 2 to 5 inside them,
and single Chinese characters, pairs and triples. Each n-gram is hashed to 31 bits; only columns that several training texts have are kept.
Sources: Wang & Manning 2012 (both linear models as strong baselines); Weinberger et al. 2009 (hashing). Reads with NumPy and SciPy;
scikit-learn only fits. Leaves out: word segmentation, several labels a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import resolve
from zhixing.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

METHODS = ("naive_bayes", "logistic")
STRENGTHS = {"naive_bayes": (0.03, 0.1, 0.3, 1.0), "logistic": (1.0, 0.25, 0.06)}
STEPS = 60  # of L-BFGS
TOLERANCE = 1e-3  # of the gradient, relative to what L-BFGS starts from; accuracy stands still long before
HELD_OUT = 10  # one row in so many chooses the strength where there are no validation rows
PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2^64; the golden ratio's bits spread well
ROWS_AT_ONCE = 8192  # texts; bounds the memory of reading, no answer depends on it

SPACE, WORD, HAN, OTHER = range(4)


@dataclass(frozen=True)
class BagConfig:
    """How texts are read and what was fitted.

    method      str             "naive_bayes" or "logistic"
    strength    float           of the prior: pseudo-counts a feature, or the precision of the Gaussian over weights
    words       int             longest run of words that is a feature
    characters  (int, int)      runs of characters inside a word that are features
    han         int             longest run of characters that is a feature where one of them is Chinese
    rows        int             how many training texts must have a feature for it to be kept
    """

    label_count: int
    method: str = "logistic"
    strength: float = 0.25
    words: int = 2
    characters: tuple[int, int] = (2, 5)
    han: int = 3
    rows: int = 2
    model_type: str = "bag"


@dataclass(frozen=True)
class Trial:
    """What one method and strength gave on the validation rows."""

    method: str
    strength: float
    loss: float
    accuracy: float


def classify_character(character: str) -> int:
    """Say what a character is to the reader of words."""
    if character.isspace():
        return SPACE
    code = ord(character)
    # Han and its extensions, kana: scripts that part no words.
    if 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF:
        return HAN
    return WORD if character.isalnum() else OTHER


def mix(hashes: np.ndarray, salt: int) -> np.ndarray:
    """Spread 64-bit hashes and keep 31 bits of them; the salt keeps kinds of features apart."""
    hashes = (hashes ^ (hashes >> np.uint64(29))) * PRIME + np.uint64(salt * 0x632BE59BD9B4E019 % 2**64)
    hashes = (hashes ^ (hashes >> np.uint64(32))) * PRIME
    return (hashes >> np.uint64(33)).astype(np.int32)


def read_features(texts: Sequence[str], config: BagConfig) -> tuple[np.ndarray, np.ndarray]:
    """Give every feature of every text, repeats included, by hash.

    texts   B str
    return  rows (N,) int32 and hashes (N,) int32
    """
    if not texts:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    cleaned = [f" {' '.join(text.lower().split())} " for text in texts]
    codes = np.frombuffer("".join(cleaned).encode("utf-32-le", "surrogatepass"), np.uint32)  # (N,)
    row = np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in cleaned])
    distinct, place = np.unique(codes, return_inverse=True)
    kinds = np.array([classify_character(chr(code)) for code in distinct], np.int8)[place]

    # The hash of any run [i, j) is (sums[j] - sums[i]) / PRIME^i modulo 2^64, so that runs of all lengths come from one running sum.
    powers = np.cumprod(np.full(len(codes), PRIME))
    inverses = np.cumprod(np.full(len(codes), np.uint64(pow(int(PRIME), -1, 1 << 64))))
    sums = np.concatenate([[np.uint64(0)], np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers)])
    spaces = np.concatenate([[0], np.cumsum(kinds == SPACE)])
    hans = np.concatenate([[0], np.cumsum(kinds == HAN)])

    rows, hashes = [], []
    shortest, longest = config.characters
    for length in range(1, max(longest, config.han) + 1):
        starts = np.arange(len(codes) - length + 1)
        ends = starts + length
        # A space may only begin or end a run: runs lie inside words, and know where a word begins and ends.
        inside = spaces[np.maximum(ends - 1, starts + 1)] - spaces[starts + 1] == 0
        has_han = hans[ends] > hans[starts]
        inside &= np.where(has_han, length <= config.han, shortest <= length <= longest)
        inside &= ~((kinds[starts] == SPACE) & (kinds[ends - 1] == SPACE))
        starts = starts[inside]
        hashes.append(mix((sums[starts + length] - sums[starts]) * inverses[starts], length))
        rows.append(row[starts])

    is_word = np.concatenate([[False], kinds == WORD, [False]])
    starts, ends = np.flatnonzero(is_word[1:] & ~is_word[:-1]), np.flatnonzero(is_word[:-1] & ~is_word[1:])
    words = (sums[ends] - sums[starts]) * inverses[starts]
    owner = row[starts]
    run = words
    for length in range(1, config.words + 1):
        count = max(len(words) - length + 1, 0)
        together = owner[:count] == owner[length - 1 :]  # a run of words lies in one text
        rows.append(owner[:count][together])
        hashes.append(mix(run[together], 100 + length))
        run = run[:-1] * PRIME + words[length:]
    return np.concatenate(rows), np.concatenate(hashes)


class Bag:
    """A linear model of p(label | text) over hashed n-grams.

    columns  (F,) int32 sorted          hashes of the features that are kept
    idf      (F,) float32               what a feature's frequency is multiplied by; all 1 for naive Bayes
    weights  (F, labels) float32        log-odds or log-probabilities; a feature's share of each label's score
    bias     (labels,) float64
    """

    def __init__(self, config: BagConfig, columns: np.ndarray, idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.config = config
        self.columns = columns
        self.idf = idf
        self.weights = weights
        self.bias = bias

    @classmethod
    def fit(cls, texts: Sequence[str], labels: np.ndarray, label_count: int, method: str = "logistic", strength: float | None = None) -> Bag:
        """Fit one method at one strength.

        texts   B str
        labels  (B,) int   0 <= label < label_count
        """
        if method not in METHODS:
            raise UsageError("bag.method", name=method, among=METHODS)
        strength = STRENGTHS[method][len(STRENGTHS[method]) // 2] if strength is None else strength
        config = BagConfig(label_count, method, float(strength))
        labels = np.asarray(labels, np.int64)
        columns, counts = learn_columns(texts, config)
        return cls._fit(config, columns, counts, labels, None)

    @classmethod
    def _fit(cls, config: BagConfig, columns: np.ndarray, counts: csr_matrix, labels: np.ndarray, start: np.ndarray | None) -> Bag:
        check(labels, config.label_count)
        if config.method == "naive_bayes":
            weights, bias = fit_naive_bayes(counts, labels, config.label_count, config.strength)
            return cls(config, columns, np.ones(len(columns), np.float32), weights.astype(np.float32), bias)
        # Smoothed as in scikit-learn: ln((1 + rows) / (1 + rows with the feature)) + 1.
        idf = (np.log((1 + counts.shape[0]) / (1 + np.bincount(counts.indices, minlength=len(columns)))) + 1).astype(np.float32)
        weights, bias = fit_logistic(weigh(counts, idf), labels, config.label_count, config.strength, start)
        return cls(config, columns, idf, weights.astype(np.float32), bias)

    @classmethod
    def choose(
        cls,
        texts: Sequence[str],
        labels: np.ndarray,
        label_count: int,
        validation: tuple[Sequence[str], np.ndarray] | None = None,
        methods: Sequence[str] = METHODS,
        by: str = "loss",
    ) -> tuple[Bag, list[Trial]]:
        """Fit every method at a few strengths and keep the best on validation rows; say what each gave.

        validation  texts and labels, or None   None: every tenth row stands apart, and the best is fitted again on all rows
        by          "loss" or "accuracy"
        """
        if by not in ("loss", "accuracy"):
            raise UsageError("bag.by", name=by, among=("loss", "accuracy"))
        for method in methods:
            if method not in METHODS:
                raise UsageError("bag.method", name=method, among=METHODS)
        labels = np.asarray(labels, np.int64)
        fitted, held = (texts, labels), validation
        if validation is None:
            if len(texts) < 2:
                raise DataError("bag.rows", rows=len(texts))
            apart = np.random.default_rng(0).permutation(len(texts)) % HELD_OUT == 0
            fitted, held = ([[text for text, a in zip(texts, apart, strict=True) if a is not_in] for not_in in ()], None), None
        return _search(cls, fitted, held, label_count, methods, by)
