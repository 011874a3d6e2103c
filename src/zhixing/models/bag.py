"""A bag of hashed word and character n-grams with naive Bayes or logistic regression on it: the linear classifier of texts.

One function reads raw text of any language: words and pairs of words where words stand apart, characters in runs of 2 to 5 inside them,
and single Chinese characters, pairs and triples. Each n-gram is hashed to 31 bits; only columns that several training texts have are kept.
Texts that are one run of letters each, such as DNA, may be read otherwise: longer runs, two short runs some letters apart, and runs with
where they stand. Which reading is best is chosen on validation, as the prior's strength is.
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
PRIORS = {"naive_bayes": ("dirichlet", "feature"), "logistic": ("gaussian", "weight")}
STRENGTHS = {"naive_bayes": (1.0, 0.3, 0.1, 0.03), "logistic": (1.0, 0.25, 0.06, 0.015)}
STEPS = 60  # of L-BFGS
TOLERANCE = 1e-4  # relative fall of the loss in a step of L-BFGS; accuracy stands still long before
HELD_OUT = 10  # one row in so many chooses the strength where there are no validation rows
PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2^64; the golden ratio's bits spread well
ROWS_AT_ONCE = 8192  # texts; bounds the memory of reading, no answer depends on it

SPACE, WORD, HAN, OTHER = range(4)
READINGS = ("text", "letters", "places")
LETTERS = (3, 7)  # the runs of a sequence of letters
APART = (3, range(1, 7))  # two runs of so many letters with so many letters between, whatever those are
EXACT = (1, 3)  # runs that are features with the very place where they stand
NEAR = (2, 5)  # runs that are features with a stretch of BROAD letters in which they stand, and with one that lies half a stretch further
BROAD = 20
SEQUENCE = 30  # letters: shorter ones may well be words
ALPHABET = 32  # a sequence has at most so many letters; DNA has 4, proteins 20 and a few
PLACED = 4096  # letters beyond which there are no places


@dataclass(frozen=True)
class BagConfig:
    """How texts are read and what was fitted.

    method      str             "naive_bayes" or "logistic"
    strength    float           of the prior: pseudo-counts a feature, or the precision of the Gaussian over weights
    words       int             longest run of words that is a feature
    characters  (int, int)      runs of characters inside a word that are features
    han         int             longest run of characters that is a feature where one of them is Chinese
    rows        int             how many training texts must have a feature for it to be kept
    reading     str             "text"; of sequences "letters": LETTERS, APART and nothing else; "places": and EXACT, NEAR
    """

    label_count: int
    method: str = "logistic"
    strength: float = 0.25
    words: int = 2
    characters: tuple[int, int] = (2, 5)
    han: int = 3
    rows: int = 2
    reading: str = "text"
    model_type: str = "bag"


@dataclass(frozen=True)
class Trial:
    """What one method, strength and reading gave on the validation rows."""

    method: str
    strength: float
    loss: float
    accuracy: float
    reading: str = "text"


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

    if config.reading != "text":
        return read_sequences(row, kinds, sums, inverses, config.reading == "places")
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


def read_sequences(
    row: np.ndarray, kinds: np.ndarray, sums: np.ndarray, inverses: np.ndarray, placed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give the features of texts that are one run of letters each; arguments as `read_features` makes them.

    placed  runs with where they stand as well
    """
    rows, hashes = [], []
    spaces = np.flatnonzero(kinds == SPACE)
    starts_at = np.zeros(int(row[-1]) + 1 if len(row) else 0, np.int64)
    starts_at[row[spaces[::-1]]] = spaces[::-1]  # the space before each text
    where = np.arange(len(row)) - starts_at[row] - 1  # of each letter in its text, from 0
    gaps = np.concatenate([[0], np.cumsum(kinds == SPACE)])

    def run(length: int, over: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Give where runs begin, with no space within `over` letters or their own length, and their hashes before they are mixed."""
        begin = np.arange(max(0, len(row) - max(length, over) + 1))
        begin = begin[gaps[begin + max(length, over)] == gaps[begin]]
        return begin, (sums[begin + length] - sums[begin]) * inverses[begin]

    def add(begin: np.ndarray, values: np.ndarray, salt: int) -> None:
        rows.append(row[begin])
        hashes.append(mix(values, salt))

    for length in range(LETTERS[0], LETTERS[1] + 1):
        add(*run(length), length)
    size, between = APART
    behind = np.uint64(pow(int(PRIME), size, 1 << 64))
    for gap in between:
        begin, first = run(size, 2 * size + gap)
        second = begin + size + gap
        add(begin, first * behind + (sums[second + size] - sums[second]) * inverses[second], 200 + gap)
    for length in range(1, NEAR[1] + 1) if placed else ():
        begin, values = run(length)
        inside = where[begin] < PLACED
        begin, values = begin[inside], values[inside]
        place = where[begin].astype(np.uint64)
        if EXACT[0] <= length <= EXACT[1]:
            add(begin, values * PRIME + place, 300 + length)
        if NEAR[0] <= length:
            for shift in (0, BROAD // 2):
                add(begin, values * PRIME + (place + np.uint64(shift)) // np.uint64(BROAD), 400 + 20 * length + shift)
    return np.concatenate(rows), np.concatenate(hashes)


def readings_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Say how texts may be read: as text, and as sequences where every one is a long run of few letters."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(text.strip().lower())
        if len(text) < SEQUENCE or len(alphabet) > ALPHABET:
            return READINGS[:1]
    return READINGS if alphabet and all(classify_character(letter) == WORD for letter in alphabet) else READINGS[:1]


class Bag:
    """A linear model of p(label | text) over hashed n-grams.

    columns  (F,) int32 sorted          hashes of the features that are kept
    idf      (F,) float32               what a feature's frequency is multiplied by; all 1 for naive Bayes
    weights  (F, labels) float32        log-odds or log-probabilities; a feature's share of each label's score
    bias     (labels,) float64
    """

    arrays = True

    def __init__(self, config: BagConfig, columns: np.ndarray, idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.config = config
        self.columns = columns
        self.idf = idf
        self.weights = weights
        self.bias = bias

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: np.ndarray,
        label_count: int,
        method: str = "logistic",
        strength: float | None = None,
        reading: str = "text",
    ) -> Bag:
        """Fit one method at one strength on one reading of the texts.

        texts   B str
        labels  (B,) int   0 <= label < label_count
        """
        check_method(method)
        strength = STRENGTHS[method][len(STRENGTHS[method]) // 2] if strength is None else strength
        config = BagConfig(label_count, method, float(strength), reading=reading)
        labels = np.asarray(labels, np.int64)
        columns, counts = learn_columns(texts, config)
        return cls._fit(config, columns, counts, labels)

    @classmethod
    def _fit(cls, config: BagConfig, columns: np.ndarray, counts: csr_matrix, labels: np.ndarray, start: Bag | None = None) -> Bag:
        check(labels, counts.shape[0], config.label_count)
        if config.method == "naive_bayes":
            weights, bias = fit_naive_bayes(counts, labels, config.label_count, config.strength)
            return cls(config, columns, np.ones(len(columns), np.float32), weights, bias)
        idf = weigh_rare(counts)
        weights, bias = fit_logistic(scale(counts, idf), labels, config.label_count, config.strength, start)
        return cls(config, columns, idf, weights, bias)

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
        """Fit every method at a few strengths on every reading; keep the best on validation rows, and say what each gave.

        validation  texts and labels, or None   None: every tenth row stands apart, and the best is fitted again on all rows
        by          "loss" or "accuracy"
        """
        if by not in ("loss", "accuracy"):
            raise UsageError("bag.by", name=by, among=("loss", "accuracy"))
        for method in methods:
            check_method(method)
        labels = np.asarray(labels, np.int64)
        if validation is None:
            apart = np.random.default_rng(0).permutation(len(texts)) % HELD_OUT == 0
            inside, outside = np.flatnonzero(~apart), np.flatnonzero(apart)
            held = ([texts[i] for i in outside], labels[outside])
            best, trials = cls.choose([texts[i] for i in inside], labels[inside], label_count, held, methods, by)
            return cls.fit(texts, labels, label_count, best.config.method, best.config.strength, best.config.reading), trials
        best, lowest, trials = None, np.inf, []
        held_labels = np.asarray(validation[1], np.int64)
        for reading in readings_of(texts):
            columns, counts = learn_columns(texts, BagConfig(label_count, reading=reading))
            held_counts = count_columns(validation[0], columns, BagConfig(label_count, reading=reading))
            for method in methods:
                bag, losses = None, []
                for strength in STRENGTHS[method]:
                    bag = cls._fit(BagConfig(label_count, method, strength, reading=reading), columns, counts, labels, bag)
                    p = bag.read(held_counts)
                    loss = -np.log(np.maximum(p[np.arange(len(p)), held_labels], np.finfo(np.float64).tiny)).mean()
                    trial = Trial(method, strength, float(loss), float((p.argmax(1) == held_labels).mean()), reading)
                    rank = trial.loss if by == "loss" else -trial.accuracy
                    if best is None or rank < lowest:
                        best, lowest = bag, rank
                    trials.append(trial)
                    losses.append(loss)
                    if len(losses) > 1 and losses[-1] > losses[-2]:
                        break  # the loss falls and then rises along the strengths
        return best, trials

    @property
    def prior(self) -> dict[str, Any]:
        """The prior by name, strength and what has so much of it."""
        name, per = PRIORS[self.config.method]
        return {"name": name, "strength": self.config.strength, "per": per}

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Give p(label | text).

        texts   B str
        return  (B, labels) float64; each row sums to 1
        """
        texts = list(texts)
        parts = [
            self.read(count_columns(texts[start : start + ROWS_AT_ONCE], self.columns, self.config))
            for start in range(0, len(texts), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros((0, self.config.label_count)), *parts])

    def read(self, counts: csr_matrix) -> np.ndarray:
        """Give p(label | text) from counted features: (B, F) -> (B, labels) float64."""
        features = counts if self.config.method == "naive_bayes" else scale(counts, self.idf)
        return normalise(features @ self.weights + self.bias)

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config) | {"characters": list(self.config.characters)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"columns": self.columns, "idf": self.idf, "weights": self.weights, "bias": self.bias}

    @classmethod
    def from_tensors(cls, config: BagConfig | Mapping[str, Any], tensors: Mapping[str, Any]) -> Bag:
        """Build a bag again from its configuration and its saved arrays."""
        if not isinstance(config, BagConfig):
            config = resolve(BagConfig, ("config.json", {name: value for name, value in config.items() if name != "architectures"})).value
        return cls(config, *(np.asarray(tensors[name]) for name in ("columns", "idf", "weights", "bias")))


def check_method(method: str) -> None:
    """Raise when there is no such method."""
    if method not in METHODS:
        raise UsageError("bag.method", name=method, among=METHODS)


def check(labels: np.ndarray, rows: int, label_count: int) -> None:
    """Raise when there is nothing to fit, or a label that is none."""
    if rows == 0 or len(labels) != rows or labels.min() < 0 or labels.max() >= label_count:
        raise DataError("bag.labels", rows=rows, labels=len(labels), label_count=label_count)


def count_columns(texts: Sequence[str], columns: np.ndarray, config: BagConfig) -> csr_matrix:
    """Count the kept features of texts: (B, F) float32."""
    from scipy.sparse import csr_matrix

    rows, hashes = read_features(texts, config)
    places = np.searchsorted(columns, hashes)
    kept = places < len(columns)
    kept[kept] = columns[places[kept]] == hashes[kept]
    counts = csr_matrix((np.ones(int(kept.sum()), np.float32), (rows[kept], places[kept])), shape=(len(texts), len(columns)))
    counts.sum_duplicates()
    return counts


def learn_columns(texts: Sequence[str], config: BagConfig) -> tuple[np.ndarray, csr_matrix]:
    """Find the features that enough texts have, and count them: columns (F,) int32 sorted, counts (B, F) float32."""
    seen = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        rows, hashes = read_features(texts[start : start + ROWS_AT_ONCE], config)
        pairs = np.unique((hashes.astype(np.int64) << 32) | rows)  # once a text
        columns, texts_with = np.unique(pairs >> 32, return_counts=True)
        seen.append((columns, texts_with))
    every, place = np.unique(np.concatenate([columns for columns, _ in seen] or [np.zeros(0, np.int64)]), return_inverse=True)
    total = np.bincount(place, weights=np.concatenate([n for _, n in seen] or [np.zeros(0)]), minlength=len(every))
    columns = every[total >= config.rows].astype(np.int32)
    from scipy.sparse import vstack

    parts = [count_columns(texts[start : start + ROWS_AT_ONCE], columns, config) for start in range(0, max(len(texts), 1), ROWS_AT_ONCE)]
    return columns, vstack(parts, format="csr")


def weigh_rare(counts: csr_matrix) -> np.ndarray:
    """Give each feature's inverse document frequency, (F,) float32: ln((1 + B) / (1 + texts with it)) + 1."""
    texts_with = np.bincount(counts.indices, minlength=counts.shape[1])
    return (np.log((1 + counts.shape[0]) / (1 + texts_with)) + 1).astype(np.float32)


def scale(counts: csr_matrix, idf: np.ndarray) -> csr_matrix:
    """Turn counts into features: (1 + ln count) * idf, each text's vector of length 1."""
    features = counts.copy()
    features.data = (1 + np.log(counts.data)) * idf[counts.indices]
    lengths = np.sqrt(np.asarray(features.multiply(features).sum(1)).ravel())
    features.data /= np.repeat(np.maximum(lengths, np.finfo(np.float32).tiny), np.diff(features.indptr)).astype(np.float32)
    return features


def normalise(scores: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities, (B, labels) float64."""
    scores = scores.astype(np.float64)
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def fit_naive_bayes(counts: csr_matrix, labels: np.ndarray, label_count: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit multinomial naive Bayes, the mode of the posterior under Dirichlet(1 + alpha) priors.

    p(feature f | label k) = (N[k, f] + alpha) / (sum over g of N[k, g] + alpha F)      N: how often f stands in texts of k
    p(label k)             = (B[k] + alpha) / (B + alpha labels)                        B: texts
    return  (F, labels) float32 log p(f | k), (labels,) float64 log p(k)
    """
    rows = np.arange(len(labels))
    from scipy.sparse import csr_matrix

    member = csr_matrix((np.ones(len(labels)), (labels, rows)), shape=(label_count, len(labels)))
    n = np.asarray((member @ counts.astype(np.float64)).todense())  # (labels, F)
    features = np.log(n + alpha) - np.log(n.sum(1, keepdims=True) + alpha * n.shape[1])
    texts = np.bincount(labels, minlength=label_count)
    return features.T.astype(np.float32), np.log(texts + alpha) - np.log(len(labels) + alpha * label_count)


def fit_logistic(
    features: csr_matrix, labels: np.ndarray, label_count: int, strength: float, start: Bag | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit multinomial logistic regression, the mode of the posterior under a Gaussian prior of precision `strength` on each weight.

    start  a bag of another strength over the same columns; the search begins at its weights instead of at zero
    least  sum over i of -log p(label i | text i) + strength / 2 * sum of weights^2,   p = softmax(weights' x + bias), the bias free
    return  (F, labels) float32 weights, (labels,) float64 bias
    """
    from scipy.optimize import minimize

    rows, width = np.arange(len(labels)), features.shape[1]
    flipped = features.T.tocsr()

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = point[:-label_count].reshape(width, label_count), point[-label_count:]
        p = normalise(features @ weights.astype(np.float32) + bias)  # (B, labels)
        value = -np.log(np.maximum(p[rows, labels], np.finfo(np.float64).tiny)).sum() + strength / 2 * (weights**2).sum()
        p[rows, labels] -= 1
        slope = flipped @ p.astype(np.float32) + strength * weights
        return value, np.concatenate([slope.ravel(), p.sum(0)])

    begin = np.zeros(width * label_count + label_count)
    if start is not None:
        begin = np.concatenate([start.weights.astype(np.float64).ravel(), start.bias])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": TOLERANCE, "gtol": 0})
    point = found.x
    return point[:-label_count].reshape(width, label_count).astype(np.float32), point[-label_count:]
