"""A linear-chain conditional random field over hashed features of tokens, and the most frequent tag of each token: taggers that count.

p(tags | tokens) = exp(sum over t of weights' features(t) [tag t] + transitions[tag t-1, tag t]) / Z
Features of a token: itself, its lower case, its first and last 1 to 4 characters, its shape; two tokens on either side and their shapes;
runs of two and three tokens around it, which in Chinese are the character n-grams; characters and pairs of them inside a Chinese word.
Only valid sequences have a probability: in BIO tags, I-x follows B-x or I-x.
Source: Lafferty, McCallum & Pereira 2001; scaled forward and backward passes: Rabiner 1989. Fitted by L-BFGS on exact gradients; sentences
run together, a step of all of them at a time, the longest first, so that nothing is padded. Reads with NumPy and SciPy.
Leaves out: lists of names, vectors of words, chains of higher order.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError
from zhixing.models.bag import HAN, PRIME, classify_character, mix
from zhixing.models.chain import Packing, follow, pack, run_chain

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REMARKS = frozenset({"architectures"})
AFFIX = 4  # characters, the longest beginning or end of a token that is a feature
AROUND = 2  # tokens on either side whose words and shapes are features
WIDE = 8  # the same where tokens are letters of a sequence: the turn of a helix is 3.6 residues; of words only
RUNS = ((-2, -1), (-1, 0), (0, 1), (1, 2), (-1, 1), (-2, -1, 0), (-1, 0, 1), (0, 1, 2))  # tokens, from a token's own place, read as one
STRENGTHS = (1.0, 0.3, 0.1, 0.03)
USUAL = 0.1  # the strength where none is chosen
STEPS = 120  # of L-BFGS
TOLERANCE = 1e-5  # relative fall of the loss in a step of L-BFGS
SENTENCES_AT_ONCE = 2048  # bounds the memory of reading
FEW = 1e-12
OUTSIDE = "O"


@dataclass(frozen=True)
class CRFConfig:
    """What was fitted.

    tags      the tags, sorted: index in this tuple is the model's output
    strength  precision of the Gaussian prior over every weight
    minimum   how often the training text must have a feature for it to be kept
    around    tokens on either side whose words are features
    """

    tags: tuple[str, ...]
    strength: float = USUAL
    minimum: int = 2
    around: int = AROUND
    model_type: str = "crf"


@dataclass(frozen=True)
class FrequentConfig:
    """The tags, and the one that unknown tokens get with the share of it among tokens that stood once."""

    tags: tuple[str, ...]
    unknown: int
    share: float
    model_type: str = "frequent_tag"


def legal(tags: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Say which tags may begin a sequence and which may follow which; tags that are not BIO may do anything.

    return  (K,) bool, (K, K) bool    the second from row to column
    """
    bound = any(tag.startswith("B-") for tag in tags)
    free = np.array([not (bound and tag.startswith("I-")) for tag in tags], bool)
    inside = np.array([[before[:2] in ("B-", "I-") and before[2:] == tag[2:] for tag in tags] for before in tags], bool)
    return free, free[None, :] | inside


def mend(tags: Sequence[str]) -> list[str]:
    """Turn every I-x that follows neither B-x nor I-x into B-x."""
    found: list[str] = []
    for tag in tags:
        starts = tag.startswith("I-") and (not found or found[-1][:2] not in ("B-", "I-") or found[-1][2:] != tag[2:])
        found.append(f"B-{tag[2:]}" if starts else tag)
    return found


def hash_words(words: Sequence[str]) -> np.ndarray:
    """Give each word's 64-bit hash: (N,) uint64."""
    digests = [hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words]
    return np.frombuffer(b"".join(digests), np.uint64)


def give_shape(token: str) -> str:
    """Give a token's shape: capitals as A, small letters as a, digits as 0, Chinese as 中, all else as itself."""
    kinds = (
        "A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else "中" if classify_character(c) == HAN else c for c in token
    )
    return "".join(kinds)


def describe(token: str) -> list[str]:
    """List a token's own features, each with a letter that says what it is."""
    lower, shape = token.lower(), give_shape(token)
    short = "".join(kind for kind, _ in itertools.groupby(shape))
    found = ["!", f"W{token}", f"L{lower}", f"S{shape}", f"R{short}"]
    found += [f"{side}{part}" for n in range(1, AFFIX + 1) if n <= len(lower) for side, part in (("P", lower[:n]), ("E", lower[-n:]))]
    if len(token) > 1 and "中" in short:
        found += [f"C{token[i : i + n]}" for n in (1, 2) for i in range(len(token) - n + 1)]
    return found


def read_features(sentences: Sequence[Sequence[str]], around: int = AROUND) -> tuple[np.ndarray, np.ndarray]:
    """Give every feature of every token by hash; tokens are numbered through all sentences.

    return  rows (N,) int64 and hashes (N,) int32
    """
    edge = [""] * around
    flat = [*edge, *itertools.chain.from_iterable([*sentence, *edge] for sentence in sentences)]
    index = {token: place for place, token in enumerate(dict.fromkeys(["", *flat]))}
    ids = np.array([index[token] for token in flat], np.int64)
    lengths = [len(sentence) for sentence in sentences]
    rows = np.arange(sum(lengths))
    places = rows + around + around * np.repeat(np.arange(len(lengths)), lengths)  # of each token among the edges

    described = [describe(token) for token in index]
    counts = np.array([len(each) for each in described])
    starts = np.concatenate([[0], np.cumsum(counts)])
    own = mix(hash_words(list(itertools.chain.from_iterable(described))), 1)
    mine = counts[ids[places]]
    first = np.repeat(starts[ids[places]], mine)
    within = np.arange(mine.sum()) - np.repeat(np.cumsum(mine) - mine, mine)
    found = [(np.repeat(rows, mine), own[first + within])]

    words = hash_words([f"L{token.lower()}" for token in index])
    shapes = hash_words([f"S{give_shape(token)}" for token in index])
    for offset in (*range(-around, 0), *range(1, around + 1)):
        near = ((words, 20), (shapes, 40)) if abs(offset) <= AROUND else ((words, 20),)
        found += [(rows, mix(table[ids[places + offset]], salt + offset)) for table, salt in near]
    for salt, run in enumerate(RUNS, 60):
        joined = np.zeros(len(rows), np.uint64)
        for offset in run:
            joined = joined * PRIME + words[ids[places + offset]]
        found.append((rows, mix(joined, salt)))
    return np.concatenate([row for row, _ in found]), np.concatenate([hashes for _, hashes in found])


def count_columns(rows: np.ndarray, hashes: np.ndarray, columns: np.ndarray, tokens: int) -> csr_matrix:
    """Count the kept features of tokens: (N, F) float64."""
    from scipy.sparse import csr_matrix

    if not len(columns):
        return csr_matrix((tokens, 0))
    places = np.minimum(np.searchsorted(columns, hashes), len(columns) - 1)
    kept = columns[places] == hashes
    return csr_matrix((np.ones(int(kept.sum())), (rows[kept], places[kept])), shape=(tokens, len(columns)))


class CRF:
    """A linear-chain conditional random field.

    columns      (F,) int32 sorted    hashes of the features that are kept
    weights      (F, K) float32       a feature's share of each tag's score
    transitions  (K, K) float64       from row to column; -inf where tags never follow
    start        (K,) float64         the same for a sentence's first tag
    """

    arrays = True

    def __init__(self, config: CRFConfig, columns: np.ndarray, weights: np.ndarray, transitions: np.ndarray, start: np.ndarray) -> None:
        self.config = config
        self.columns = columns
        self.weights = weights
        self.transitions = transitions
        self.start = start

    @classmethod
    def fit(
        cls,
        sentences: Sequence[Sequence[str]],
        tags: Sequence[Sequence[str]],
        strength: float = USUAL,
        minimum: int = 2,
        begin: CRF | None = None,
        around: int = AROUND,
    ) -> CRF:
        """Fit the mode of the posterior under a Gaussian prior.

        begin  a model of another strength over the same sentences; the search begins at its weights instead of at zero

        Raises DataError naming the row whose tags do not fit its tokens or are no valid sequence.
        """
        if not strength > 0:
            raise UsageError("fit.strength", value=strength)
        names = check_tags("crf", sentences, tags)
        config = CRFConfig(names, float(strength), minimum, around)
        rows, hashes = read_features(sentences, around)
        columns, times = np.unique(hashes, return_counts=True)
        columns = columns[times >= minimum]
        lengths = np.array([len(sentence) for sentence in sentences])
        features = count_columns(rows, hashes, columns, int(lengths.sum()))
        index = {tag: place for place, tag in enumerate(names)}
        answers = np.array([index[tag] for row in tags for tag in row], np.int64)
        packing = pack(lengths)
        objective = Likelihood(features[packing.order], answers[packing.order], packing, names, config.strength)
        point = objective.minimise(None if begin is None else begin.point())
        return cls(config, columns, *objective.unfold(point, np.float32))

    @classmethod
    def choose(
        cls,
        sentences: Sequence[Sequence[str]],
        tags: Sequence[Sequence[str]],
        held: tuple[Sequence[Sequence[str]], Sequence[Sequence[str]]],
        figure: Callable[[list[list[str]], Sequence[Sequence[str]]], float] | None = None,
        strengths: Sequence[float] = STRENGTHS,
        around: int = AROUND,
    ) -> tuple[CRF, dict[float, float]]:
        """Fit at each strength, the strongest first, and keep the model that is best on held-out sentences.

        figure  of the answers and the true tags, larger is better; None: the mean of log p(tag of a token)
        return  the model, and what the figure was at each strength

        The probability of tags and spans found do not agree: a weaker prior finds more spans and is more often sure and wrong.
        """
        check_tags("crf", *held, whole=False)
        found: dict[float, float] = {}
        best = model = None
        for strength in sorted(strengths, reverse=True):
            model = cls.fit(sentences, tags, strength, begin=model, around=around)
            value = -model.judge(*held) if figure is None else figure(model.tag(held[0])[0], held[1])
            if best is None or value > max(found.values()):
                best = model
            found[strength] = value
        return best, found

    def point(self) -> np.ndarray:
        """Give all weights as one vector, moves that are never made as zero."""
        parts = (self.weights, self.transitions, self.start)
        return np.concatenate([np.where(np.isfinite(part), part, 0).astype(np.float64).ravel() for part in parts])

    def judge(self, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> float:
        """Give the mean of -log p(tag of a token) over sentences with their tags."""
        index = {tag: place for place, tag in enumerate(self.config.tags)}
        p = np.concatenate([np.zeros((0, len(index))), *self.marginals(sentences)])
        answers = np.array([index.get(tag, -1) for row in tags for tag in row], np.int64)
        given = np.where(answers < 0, 0.0, p[np.arange(len(p)), answers])
        return float(-np.log(np.maximum(given, FEW)).mean()) if len(given) else 0.0

    def read(self, sentences: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Give the best tag of every token and p(tag of a token): (N,) int64 and (N, K) float64, through all sentences."""
        lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        rows, hashes = read_features(sentences, self.config.around)
        emissions = count_columns(rows, hashes, self.columns, int(lengths.sum())) @ self.weights.astype(np.float64)  # (N, K)
        return follow(emissions, self.transitions, self.start, lengths)

    def tag(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[np.ndarray]]:
        """Give the most probable sequence of tags of each sentence, and for each token the probability of its tag."""
        tags: list[list[str]] = []
        probabilities: list[np.ndarray] = []
        for start in range(0, len(sentences), SENTENCES_AT_ONCE):
            chunk = sentences[start : start + SENTENCES_AT_ONCE]
            best, marginals = self.read(chunk)
            ends = np.cumsum([len(sentence) for sentence in chunk])[:-1]
            tags += [[self.config.tags[place] for place in row] for row in np.split(best, ends)]
            probabilities += np.split(marginals[np.arange(len(best)), best], ends)
        return tags, probabilities

    def marginals(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Give p(tag of a token | sentence) of each sentence: each (T, K) float64."""
        found: list[np.ndarray] = []
        for start in range(0, len(sentences), SENTENCES_AT_ONCE):
            chunk = sentences[start : start + SENTENCES_AT_ONCE]
            found += np.split(self.read(chunk)[1], np.cumsum([len(sentence) for sentence in chunk])[:-1])
        return found

    @property
    def prior(self) -> dict[str, Any]:
        """The prior by name, strength and what has so much of it."""
        return {"name": "gaussian", "strength": self.config.strength, "per": "weight"}

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config) | {"tags": list(self.config.tags)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"columns": self.columns, "weights": self.weights, "transitions": self.transitions, "start": self.start}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> CRF:
        """Build the model again from its configuration and its saved arrays."""
        names = ("columns", "weights", "transitions", "start")
        return cls(read(CRFConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in names))


class Likelihood:
    """-log p(tags | tokens) of all sentences and the prior, with its gradient: what fitting minimises."""

    def __init__(self, features: csr_matrix, answers: np.ndarray, packing: Packing, names: Sequence[str], strength: float) -> None:
        self.features, self.flipped = features, features.T.tocsr()
        self.answers, self.packing, self.strength = answers, packing, strength
        self.start, self.moves = legal(names)
        self.shape = (features.shape[1], len(names))
        first = packing.sizes[0] if len(packing.sizes) else 0
        self.gold = np.eye(len(names))[answers]  # (N, K)
        self.begun = self.gold[:first].sum(0)
        self.moved = np.zeros((len(names), len(names)))
        np.add.at(self.moved, (answers[packing.before[first:]], answers[first:]), 1)

    def unfold(self, point: np.ndarray, kind: type = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give weights (F, K), transitions (K, K) and start (K,) of a vector of all of them."""
        width, count = self.shape
        weights = point[: width * count].reshape(width, count).astype(kind, copy=False)
        transitions = point[width * count : -count].reshape(count, count)
        return weights, np.where(self.moves, transitions, -np.inf), np.where(self.start, point[-count:], -np.inf)

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Give the loss and its gradient."""
        weights, transitions, start = self.unfold(point)
        emissions = self.features @ weights  # (N, K)
        whole, marginals, pairs = run_chain(emissions, transitions, start, self.packing)
        own = (emissions * self.gold).sum() + self.moved[self.moves] @ transitions[self.moves] + self.begun[self.start] @ start[self.start]
        first = int(self.begun.sum())
        slopes = (self.flipped @ (marginals - self.gold), pairs - self.moved, marginals[:first].sum(0) - self.begun)
        slope = np.concatenate([np.ravel(each) for each in slopes]) + self.strength * point
        return whole - own + self.strength / 2 * float(point @ point), slope

    def minimise(self, begin: np.ndarray | None) -> np.ndarray:
        """Find the mode by L-BFGS, from zero or from a point."""
        from scipy.optimize import minimize

        width, count = self.shape
        begin = np.zeros(width * count + count * count + count) if begin is None else begin
        return minimize(self, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": TOLERANCE, "gtol": 0}).x


class FrequentTag:
    """The most frequent tag of each known token; unknown tokens get O, or the most frequent tag where there is no O.

    words   (N,) uint64 sorted    hashes of the known tokens
    best    (N,) int64            the tag of each
    shares  (N,) float64          how often it had that tag
    """

    arrays = True

    def __init__(self, config: FrequentConfig, words: np.ndarray, best: np.ndarray, shares: np.ndarray) -> None:
        self.config = config
        self.words = words
        self.best = best
        self.shares = shares

    @classmethod
    def fit(cls, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> FrequentTag:
        """Count the tags of every token; raises DataError naming the row whose tags do not fit its tokens."""
        names = check_tags("frequent_tag", sentences, tags, whole=False)
        hashes = hash_words([token for row in sentences for token in row])
        answers = np.array([names.index(tag) for row in tags for tag in row], np.int64)
        words, place = np.unique(hashes, return_inverse=True)
        counts = np.zeros((len(words), len(names)))
        np.add.at(counts, (place, answers), 1)
        unknown = names.index(OUTSIDE) if OUTSIDE in names else int(counts.sum(0).argmax())
        once = counts[counts.sum(1) == 1].sum(0)
        share = float(once[unknown] / once.sum()) if once.sum() else float(counts[:, unknown].sum() / counts.sum())
        return cls(FrequentConfig(names, unknown, share), words, counts.argmax(1), counts.max(1) / counts.sum(1))

    def tag(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[np.ndarray]]:
        """Give the tags of each sentence, made a valid sequence, and how often each token had its tag."""
        tags, probabilities = [], []
        for sentence in sentences:
            hashes = hash_words(sentence)
            places = np.minimum(np.searchsorted(self.words, hashes), len(self.words) - 1)
            known = self.words[places] == hashes
            best = np.where(known, self.best[places], self.config.unknown)
            tags.append(mend([self.config.tags[place] for place in best]))
            probabilities.append(np.where(known, self.shares[places], self.config.share))
        return tags, probabilities

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config) | {"tags": list(self.config.tags)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"words": self.words, "best": self.best, "shares": self.shares}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> FrequentTag:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(FrequentConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in ("words", "best", "shares")))


def check_tags(model: str, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], whole: bool = True) -> tuple[str, ...]:
    """Give the tags that stand in sentences, sorted.

    whole  also ask that every row is a valid sequence

    Raises DataError when there is no token, naming the row whose tags are not one a token or no valid sequence.
    """
    if len(sentences) != len(tags) or not any(len(row) for row in tags):
        raise DataError("fit.rows", model=model, rows=len(sentences), answers=len(tags))
    names = tuple(sorted({tag for row in tags for tag in row}))
    start, moves = legal(names)
    index = {tag: place for place, tag in enumerate(names)}
    for row, (sentence, given) in enumerate(zip(sentences, tags, strict=True)):
        if len(sentence) != len(given):
            raise DataError("fit.tags", row=row, tokens=len(sentence), tags=len(given))
        places = [index[tag] for tag in given]
        for place, tag in enumerate(places):
            if whole and not (moves[places[place - 1], tag] if place else start[tag]):
                before = given[place - 1] if place else "—"
                raise DataError("fit.sequence", row=row, place=place, tag=given[place], before=before)
    return names
