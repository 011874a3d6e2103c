"""A weighted grammar over word classes: rules `class -> token class'`, found and weighted by text alone; the model of the first era.

A rule weighs p(token | class) p(class' | class). Grammars of such rules are called right-linear; with probabilities for weights they and
hidden Markov models generate the same distributions, so that the forward algorithm gives the next token's exactly:
    p(token | history) = sum over classes of b(class) p(token | class),   b(class) = p(class | history)
    b'(class') = sum over classes of b(class) p(token | class) p(class' | class) / p(token | history)
Class 0 is the start symbol: it writes the end token, which no other class writes, so that nothing is carried from one text to the next.
Rules can be read: `rules` gives the strongest. Learnt from random weights by Baum-Welch (EM) in small steps, then one over the whole text.
Source: Vidal et al. 2005, Probabilistic finite-state machines II (the equivalence); Rabiner 1989 (forward, backward); Cappé & Moulines 2009
(EM in steps). Leaves out: grammars that nest; classes or rules written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zhixing.core.config import resolve
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.layers.kinds import Inputs
from zhixing.models.ngram import check, check_ids

PIECE = 128  # tokens that are learnt from as one; what is before them is forgotten
PIECES = 16  # in one step of EM: small steps find better classes than whole passes do
VISITS = 4_000_000  # tokens read while learning, the last pass apart; a longer text is sampled
PASSES, PATIENCE = 40, 5  # at most, over a short text; and without a gain on validation, which at first may be long in coming
RATE = 0.5  # step n is (n + 1) ** -RATE of what is known by then
FADED = 1e-100  # the smallest scale of faded counts
# Pseudo-counts: of moves, shared as moves are in all; of tokens, shared as the text's are; and of each token among these.
MOVES, TOKENS, EACH = 1.0, 10.0, 0.5
LANE, RUN_UP = 512, 64  # tokens of a lane that is scored beside others, and read before it
APART = 1e-9  # the most by which two beliefs may differ that are taken for one, in Hilbert's metric, which no reading widens


@dataclass(frozen=True)
class GrammarConfig:
    """The shape of a grammar.

    classes  int   K, the start symbol included
    end_id   int   the token that stands before, between and after documents
    """

    vocab_size: int
    classes: int
    end_id: int
    model_type: str = "grammar"


@dataclass(frozen=True)
class Rule:
    """`left -> token right`: its weight, and the share of all tokens that it writes."""

    left: int
    token: int
    right: int
    weight: float
    share: float


class Beliefs:
    """What a grammar remembers of the texts read so far.

    texts    B lists of int     every token read, so that a crop finds its belief again
    beliefs  (B, K) float64     p(class | text) of the class that writes the next token
    """

    def __init__(self, model: Grammar, texts: list[list[int]], beliefs: np.ndarray) -> None:
        self.model = model
        self.texts = texts
        self.beliefs = beliefs

    def rows(self, index: Tensor) -> Beliefs:
        """Return the beliefs of the chosen rows."""
        places = index.tolist()
        return Beliefs(self.model, [list(self.texts[row]) for row in places], self.beliefs[places])

    def join(self, other: Beliefs) -> Beliefs:
        """Return the beliefs of this one's rows and then the other's."""
        return Beliefs(self.model, [list(text) for text in self.texts + other.texts], np.concatenate([self.beliefs, other.beliefs]))

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of each row."""
        self.texts = [text[:length] for text in self.texts]
        self.beliefs = self.model.read(self.model.cache(len(self.texts)).beliefs, self.texts)

    def add(self, inputs: Inputs) -> None:
        """Read new tokens, (B, T), of each row as many as are real."""
        new = inputs.tokens.tolist()
        if inputs.lengths is not None:
            new = [row[:length] for row, length in zip(new, inputs.lengths.tolist(), strict=True)]
        if len(new) != len(self.texts):
            raise ShapeError("ngram.rows", rows=len(new), held=len(self.texts))
        check_ids(np.array([token for row in new for token in row], np.int64), self.model.vocabulary)
        for text, row in zip(self.texts, new, strict=True):
            text.extend(row)
        self.beliefs = self.model.read(self.beliefs, new)


class Grammar:
    """A right-linear grammar of K classes; a Countable kind.

    transitions  (K, K) float   p(class' | class), up to a factor a row
    emissions    (V, K) float   p(token | class), up to a factor a column
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "grammar": {"tiny": {"classes": 32}, "small": {"classes": 128}, "medium": {"classes": 256}, "large": {"classes": 512}}
    }

    def __init__(self, config: GrammarConfig, transitions: np.ndarray, emissions: np.ndarray) -> None:
        self.config = config
        self.vocabulary = config.vocab_size
        self.weights = {"transitions": np.asarray(transitions, np.float32), "emissions": np.asarray(emissions, np.float32)}
        moves, writes = (each.astype(np.float64) for each in self.weights.values())
        self.transitions = moves / moves.sum(1, keepdims=True)
        self.emissions = writes / writes.sum(0)
        # The belief before anything was read, the one that a move leaves as it is: b T = b and sum b = 1.
        size = config.classes
        self.unread = np.linalg.solve((np.eye(size) - self.transitions + 1).T, np.ones(size))

    @classmethod
    def learn(
        cls, tokens: np.ndarray, vocabulary: int, classes: int, end_id: int, seed: int = 0, held: np.ndarray | None = None
    ) -> tuple[Grammar, list[float]]:
        """Learn the classes and weights of a grammar.

        tokens   (N,) int    [end] document [end] document ... [end]
        classes  int         K; 2 at least
        held     (N',) int   validation, by which the number of passes is chosen; the last pass learns from it as well
        return   the grammar, and validation's nats per token after each pass
        """
        check(tokens, vocabulary, end_id, counted=True)
        if held is not None and len(held) < 2:
            held = None
        if classes < 2:
            raise UsageError("grammar.classes", classes=classes)
        config, generator = GrammarConfig(vocabulary, classes, end_id), np.random.default_rng(seed)
        tokens = np.asarray(tokens, np.int64)
        texts = [tokens] if held is None else [tokens, np.asarray(held, np.int64)]
        base = sum(np.bincount(text, minlength=vocabulary) for text in texts) + EACH
        base[end_id] = 0
        known = Counts.start(base, classes, generator)
        pieces, rest = cut(tokens)
        if pieces.size > VISITS:
            pieces, rest = pieces[np.sort(generator.choice(len(pieces), VISITS // PIECE, replace=False))], rest[:0]
        best, steps = known.weights(end_id), 0
        losses: list[float] = []
        for _ in range(min(PASSES, max(1, VISITS // max(1, pieces.size)))):
            order = generator.permutation(len(pieces))
            for start in range(0, len(pieces), PIECES):
                some = pieces[order[start : start + PIECES]]
                steps += 1
                known.learn(some, end_id, len(tokens) / some.size, (steps + 1) ** -RATE)
            current = known.weights(end_id)
            if held is None:
                best = current
                continue
            losses.append(float(-cls(config, *current).score(held).mean()))
            if losses[-1] == min(losses):
                best = current
            elif len(losses) - losses.index(min(losses)) > PATIENCE:
                break
        last, opening = Counts(np.zeros((classes, classes)), np.zeros((vocabulary, classes)), base), known.shares()
        for some in whole(pieces, rest, texts[1:]):
            ids, places = np.unique(some, return_inverse=True)
            moves, writes = expect(best[0], best[1][ids], opening, places.reshape(some.shape))
            last.moves += moves
            last.writes[ids] += writes
            last.totals += writes.sum(0)
        return cls(config, *last.weights(end_id)), losses

    def step(self, beliefs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Read one token a row: the class that wrote it, then the class that it went on to.

        beliefs  (B, K) float64
        tokens   (B,) int64
        return   (B, K) float64
        """
        wrote = beliefs * self.emissions[tokens]
        return (wrote / wrote.sum(1, keepdims=True)) @ self.transitions

    def read(self, beliefs: np.ndarray, texts: list[list[int]]) -> np.ndarray:
        """Read as many tokens a row as there are; (B, K) -> (B, K)."""
        beliefs = beliefs.copy()
        lengths = np.array([len(text) for text in texts])
        for place in range(max(lengths, default=0)):
            live = np.flatnonzero(lengths > place)
            beliefs[live] = self.step(beliefs[live], np.array([texts[row][place] for row in live]))
        return beliefs

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Give log p(tokens[i] | tokens[:i]) in nats for i >= 1.

        The text is cut into lanes that are read side by side, each after a run-up from the belief of nothing read. Where a lane's
        first belief is not that with which the lane before it ended, it is read again from there.

        tokens  (N,) int         tokens[0] is the end token
        return  (N-1,) float64
        """
        check(tokens, self.vocabulary, self.config.end_id)
        tokens = np.asarray(tokens, np.int64)
        count = len(tokens) - 1
        bounds = np.linspace(0, count, max(1, count // LANE) + 1).astype(np.int64)
        firsts, ends = bounds[:-1], bounds[1:]
        beliefs = np.tile(self.unread, (len(firsts), 1))  # (B, K)
        for back in range(RUN_UP, 0, -1):
            live = firsts >= back
            beliefs[live] = self.step(beliefs[live], tokens[firsts[live] - back])
        opened, scores = beliefs.copy(), np.empty(count)
        closed = self._read_lanes(tokens, firsts, ends, beliefs, scores)
        for lane in range(1, len(firsts)):
            if apart(opened[lane], closed[lane - 1]) > APART:
                again = slice(lane, lane + 1)
                closed[again] = self._read_lanes(tokens, firsts[again], ends[again], closed[lane - 1 : lane], scores)
        return scores

    def _read_lanes(self, tokens: np.ndarray, firsts: np.ndarray, ends: np.ndarray, beliefs: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Score each lane from its belief; give the beliefs after the lanes, (B, K)."""
        beliefs = beliefs.copy()
        for place in range(int((ends - firsts).max(initial=0))):
            live = firsts + place < ends
            where = firsts[live] + place
            beliefs[live] = self.step(beliefs[live], tokens[where])
            scores[where] = np.log((beliefs[live] * self.emissions[tokens[where + 1]]).sum(1))
        return beliefs

    def cache(self, rows: int) -> Beliefs:
        """Return the beliefs of so many rows of which nothing was read."""
        return Beliefs(self, [[] for _ in range(rows)], np.tile(self.unread, (rows, 1)))

    def log_probabilities(self, inputs: Inputs, cache: Beliefs | None = None) -> Tensor:
        """Give log p(next token | tokens so far) and add the new tokens to the cache; positions change nothing here.

        return  (B, V) float32
        """
        if inputs.segments is not None:
            raise ShapeError("ngram.segments")
        beliefs = self.cache(len(inputs.tokens)) if cache is None else cache
        beliefs.add(inputs)
        p = beliefs.beliefs @ self.emissions.T  # (B, V)
        return torch.from_numpy(np.log(p).astype(np.float32)).to(inputs.tokens.device)

    def rules(self, count: int) -> list[Rule]:
        """Give the rules that write the most, the strongest first."""
        found = []
        for left in range(self.config.classes):
            tokens = self.members(left, count)
            rights = np.argsort(-self.transitions[left], kind="stable")[:count]
            weights = self.emissions[tokens, left][:, None] * self.transitions[left, rights]
            places = np.argsort(-weights, axis=None, kind="stable")[:count]
            for token, right in zip(*np.unravel_index(places, weights.shape), strict=True):
                weight = float(weights[token, right])
                found.append(Rule(left, int(tokens[token]), int(rights[right]), weight, weight * float(self.unread[left])))
        return sorted(found, key=lambda rule: (-rule.share, rule.left, rule.token, rule.right))[:count]

    def members(self, label: int, count: int) -> np.ndarray:
        """Give the tokens that a class writes most, (count,) int."""
        return np.argsort(-self.emissions[:, label], kind="stable")[:count]

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights, (K, K) and (V, K) float32."""
        return {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}

    @classmethod
    def from_tensors(cls, config: GrammarConfig | dict[str, Any], tensors: dict[str, Tensor]) -> Grammar:
        """Build a grammar again from its configuration and its weights; it scores as before, to the bit."""
        if isinstance(config, dict):
            config = resolve(GrammarConfig, ("config.json", config)).value
        size = config.classes
        for name, wanted in (("transitions", (size, size)), ("emissions", (config.vocab_size, size))):
            if name not in tensors:
                raise DataError("model.tensor_missing", name=name, among=sorted(tensors))
            if tuple(tensors[name].shape) != wanted:
                raise DataError("model.tensor_shape", name=name, shape=tuple(tensors[name].shape), wanted=wanted)
        return cls(config, np.asarray(tensors["transitions"]), np.asarray(tensors["emissions"]))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Give the distance of two beliefs in Hilbert's projective metric; reading on never widens it (Birkhoff 1957)."""
    ratios = np.log(one / other)
    return float(ratios.max() - ratios.min())


def cut(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into pieces, (B, PIECE), and the rest, shorter than a piece."""
    whole = len(tokens) // PIECE * PIECE
    if not whole:
        return tokens[None], tokens[:0]
    return tokens[:whole].reshape(-1, PIECE), tokens[whole:]


def whole(pieces: np.ndarray, rest: np.ndarray, texts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Give pieces, their rest and other texts in batches, (B, T) each."""
    for more, last in ((pieces, rest), *(cut(text) for text in texts)):
        for start in range(0, len(more), 8 * PIECES):
            yield more[start : start + 8 * PIECES]
        if len(last):
            yield last[None]


def expect(transitions: np.ndarray, emissions: np.ndarray, opening: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count moves and tokens by the classes that they are expected of: the E step, by forward and backward.

    transitions, emissions  (K, K), (V, K) float32
    opening                 (K,) float               how likely each class is to come first
    rows                    (B, T) int
    return                  (K, K), (V, K) float64   expected counts
    """
    B, T = rows.shape
    K = len(transitions)
    forward, scales = np.empty((T, B, K), np.float32), np.empty((T, B, 1), np.float32)
    belief = np.tile(opening.astype(np.float32), (B, 1))  # (B, K)
    for t in range(T):
        wrote = belief * emissions[rows[:, t]]
        scales[t] = wrote.sum(1, keepdims=True)
        forward[t] = wrote / scales[t]
        belief = forward[t] @ transitions
    found, back = np.zeros((K, K), np.float32), np.ones((B, K), np.float32)
    backwards = np.ascontiguousarray(transitions.T)
    for t in range(T - 1, 0, -1):
        ahead = back * emissions[rows[:, t]] / scales[t]
        found += forward[t - 1].T @ ahead
        forward[t] *= back  # from here on, p(class | the whole row)
        back = ahead @ backwards
    forward[0] *= back
    order = np.argsort(rows.T, axis=None, kind="stable")
    tokens = rows.T.ravel()[order]
    heads = np.flatnonzero(np.diff(tokens, prepend=-1))
    written = np.zeros((len(emissions), K))
    written[tokens[heads]] = np.add.reduceat(forward.reshape(-1, K)[order], heads)  # (V, K)
    return (found * transitions).astype(np.float64), written


class Counts:
    """Expected counts, and the probabilities that they stand for under Dirichlet priors; only the tokens at hand are ever touched.

    moves   (K, K) float64   from class to class
    writes  (V, K) float64   of tokens by classes, to be multiplied by `scale`: so all of them fade at the price of one number
    totals  (K,) float64     their sums
    base    (V,) float64     how frequent each token is, the end token apart
    """

    def __init__(self, moves: np.ndarray, writes: np.ndarray, base: np.ndarray) -> None:
        self.moves, self.writes, self.scale = moves, writes, 1.0
        self.totals = writes.sum(0)
        self.base = base / base.sum()

    @classmethod
    def start(cls, base: np.ndarray, classes: int, generator: np.random.Generator) -> Counts:
        """Begin with classes that differ by chance; base: (V,) float, counts."""
        writes = base[:, None] * generator.exponential(1 / classes, (len(base), classes))  # (V, K)
        return cls(generator.uniform(0.5, 1.5, (classes, classes)), writes, base)

    def shares(self) -> np.ndarray:
        """Give how frequent each class is, (K,) float64."""
        shares = self.moves.sum(0) + EACH
        return shares / shares.sum()

    def transitions(self) -> np.ndarray:
        """Give p(class' | class), (K, K) float32."""
        found = self.moves + MOVES * self.shares()
        return (found / found.sum(1, keepdims=True)).astype(np.float32)

    def emissions(self, ids: np.ndarray, end_id: int) -> np.ndarray:
        """Give p(token | class) of some tokens; class 0 writes the end token, which no other does.

        ids     (N,) int
        return  (N, K) float32
        """
        found = (self.writes[ids] * self.scale + TOKENS * self.base[ids, None]) / (self.totals + TOKENS)
        found[:, 0], found[ids == end_id], found[ids == end_id, 0] = 0, 0, 1
        return found.astype(np.float32)

    def weights(self, end_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Give all weights, (K, K) and (V, K) float32."""
        return self.transitions(), self.emissions(np.arange(len(self.base)), end_id)

    def learn(self, rows: np.ndarray, end_id: int, factor: float, rate: float) -> None:
        """Blend in what is expected of some rows: one step of EM.

        rows    (B, T) int
        factor  float       how much of the text a token of the rows stands for
        rate    float       what share of all counts is theirs from now on
        """
        ids, places = np.unique(rows, return_inverse=True)
        moves, writes = expect(self.transitions(), self.emissions(ids, end_id), self.shares(), places.reshape(rows.shape))
        self.moves = (1 - rate) * self.moves + rate * factor * moves
        self.totals = (1 - rate) * self.totals + rate * factor * writes.sum(0)
        self.scale *= 1 - rate
        self.writes[ids] += rate * factor / self.scale * writes
        if self.scale < FADED:
            self.writes, self.scale = self.writes * self.scale, 1.0
