"""The counted language model, of any order, in three smoothings: what a count means where counts are few.

    ngram      interpolated modified Kneser-Ney: a fixed part of every count goes to the shorter context
    dirichlet  (c + a p) / (n + a), the posterior's mean under a Dirichlet prior of strength a around p, the shorter context's probability
    additive   (c + a) / (n + a V), the same around the uniform distribution, with a pseudo-counts for each token

with c the count of token after context, n that of the context, V tokens in all. Both Dirichlets are also maximum likelihood of the counts
with pseudo-counts added, and for a -> 0 that of the counts alone; the older one, additive, forgets that a context never seen ends in one
that was. How counts are held and read is in counts.py, how a is chosen in dirichlet.py.
Sources: Chen & Goodman 1998, section 3; MacKay & Peto 1995 (dirichlet); Lidstone 1920 (additive). Leaves out: pruning, and a strength
of its own for each order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zhixing.core.config import resolve
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.layers.kinds import Inputs
from zhixing.models.counts import OUTSIDE, Level, contexts_before, continued, count_levels, make_level, pack, reaches, unpack

SMOOTHINGS = ("ngram", "dirichlet", "additive")
SCORED_AT_ONCE = 1 << 20  # positions; bounds the memory of scoring, no answer depends on it
HELD_OUT = 0.05  # of the training tokens, where the order is chosen and there is no validation text


@dataclass(frozen=True)
class NGramConfig:
    """The shape of an n-gram model.

    order   int, tokens   the longest gram: order - 1 tokens of context and the token itself
    end_id  int           the token that stands before, between and after documents
    strength    float or None   of the Dirichlet prior, in pseudo-counts: a context (dirichlet), or a token after each (additive); else None
    model_type  str             the smoothing: "ngram" (Kneser-Ney), "dirichlet" or "additive"
    """

    vocab_size: int
    order: int
    end_id: int
    model_type: str = "ngram"
    strength: float | None = None

    @property
    def added(self) -> float | None:
        """The prior's pseudo-counts in every context; None in Kneser-Ney."""
        return self.strength * self.vocab_size if self.strength and self.model_type == "additive" else self.strength


class History:
    """What an n-gram model remembers of the texts read so far.

    texts  B lists of int     every token read, so that a crop finds its context again
    ids    (B, order) int64   the id of the context of each length 0 .. order - 1, UNSEEN or OUTSIDE where it has none
    """

    def __init__(self, model: NGram, texts: list[list[int]]) -> None:
        self.model = model
        self.texts = texts
        self.ids = model.contexts(texts)

    def rows(self, index: Tensor) -> History:
        """Return a history of the chosen rows."""
        return History(self.model, [list(self.texts[row]) for row in index.tolist()])

    def join(self, other: History) -> History:
        """Return a history of this one's rows and then the other's."""
        return History(self.model, [list(text) for text in self.texts + other.texts])

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of each row."""
        self.texts = [text[:length] for text in self.texts]
        self.ids = self.model.contexts(self.texts)

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
        if all(len(row) == 1 for row in new):
            self.ids = self.model.step(self.ids, np.array([row[0] for row in new], np.int64))
        else:
            self.ids = self.model.contexts(self.texts)


class NGram:
    """An n-gram model in one of the three smoothings; a Countable kind."""

    def __init__(self, config: NGramConfig, levels: list[Level]) -> None:
        self.config = config
        self.levels = levels
        self.vocabulary = config.vocab_size

    @classmethod
    def count(
        cls, tokens: np.ndarray, vocabulary: int, order: int, end_id: int, smoothing: str = "ngram", strength: float | None = None
    ) -> NGram:
        """Count a model of one order.

        tokens    (N,) int   [end] document [end] document ... [end]
        strength  float      of the prior; for dirichlet and additive
        """
        check(tokens, vocabulary, end_id, counted=True)
        if order < 1:
            raise UsageError("ngram.order", order=order)
        config = NGramConfig(vocabulary, order, end_id, smoothing, None if strength is None else float(strength))
        check_smoothing(config)
        counted = list(itertools.islice(count_levels(tokens, vocabulary, end_id), order))
        levels, parents = [], 1
        for place, (keys, raw, _) in enumerate(counted):
            counts = raw if place == order - 1 or config.added is not None else counted[place + 1][2]
            levels.append(make_level(keys, counts, parents, vocabulary, config.added))
            parents = len(keys)
        return cls(config, levels)

    @property
    def prior(self) -> dict[str, Any] | None:
        """The prior by name, strength and what has so many pseudo-counts; None in Kneser-Ney, which has none."""
        if self.config.strength is None:
            return None
        per = "token" if self.config.model_type == "additive" else "context"
        return {"name": "dirichlet", "strength": self.config.strength, "per": per}

    def believed(self, p: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """Give what is believed before a longer context is counted: p of the shorter one, or, additive, that all tokens are alike.

        p         (N,) float64   where there is no longer context, because the document has just begun, it stays
        contexts  (N,) int64     ids of the longer contexts
        """
        return np.where(contexts == OUTSIDE, p, 1 / self.vocabulary) if self.config.model_type == "additive" else p

    def walk(self, tokens: np.ndarray) -> Iterator[tuple[Level, np.ndarray, np.ndarray]]:
        """Go up the orders: yield a level and the ids of context and of gram, (N-1,) each, for every token after the first."""
        tokens = tokens.astype(np.int64)
        reach = reaches(tokens, self.config.end_id)
        grams = np.zeros(len(reach), np.int64)
        for length, level in enumerate(self.levels):
            contexts = contexts_before(tokens, length, reach, grams)
            grams = level.find(contexts, tokens[1:], self.vocabulary)
            yield level, contexts, grams

    def parts(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Cut a long text so that every token after the first is last read with its whole context; yields what to read, in order."""
        for start in range(1, len(tokens), SCORED_AT_ONCE):
            yield tokens[max(0, start - max(1, self.config.order - 1)) : start + SCORED_AT_ONCE]

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Give log p(tokens[i] | tokens[:i]) in nats for i >= 1.

        tokens  (N,) int         tokens[0] is the end token
        return  (N-1,) float64
        """
        check(tokens, self.vocabulary, self.config.end_id)
        scores = np.empty(len(tokens) - 1)
        done = 0
        for part in self.parts(tokens):
            p = np.full(len(part) - 1, 1 / self.vocabulary)
            for level, contexts, grams in self.walk(part):
                p = level.take(self.believed(p, contexts), contexts, grams)
            new = min(SCORED_AT_ONCE, len(scores) - done)
            scores[done : done + new] = np.log(p[len(p) - new :])
            done += new
        return scores

    def matched(self, tokens: np.ndarray) -> np.ndarray:
        """Give the length of the longest context that training continued, 0 .. order - 1, before every token after the first.

        tokens  (N,) int
        return  (N-1,) int64
        """
        check(tokens, self.vocabulary, self.config.end_id)
        lengths = np.zeros(len(tokens) - 1, np.int64)
        done = 0
        for part in self.parts(tokens):
            new = min(SCORED_AT_ONCE, len(lengths) - done)
            for length, (level, contexts, _) in enumerate(self.walk(part)):
                lengths[done : done + new][continued(level, contexts[len(contexts) - new :])] = length
            done += new
        return lengths

    def cache(self, rows: int) -> History:
        """Return an empty history of so many rows."""
        return History(self, [[] for _ in range(rows)])

    def step(self, ids: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Give the ids of the contexts after one token more; a token of -1 is none.

        ids     (B, order) int64
        tokens  (B,) int64
        return  (B, order) int64
        """
        longer = np.full_like(ids, OUTSIDE)
        longer[:, 0] = 0
        real = tokens >= 0
        if ids.shape[1] > 1:
            longer[real, 1] = tokens[real]
        inside = real & (tokens != self.config.end_id)
        for length in range(2, ids.shape[1]):
            longer[inside, length] = self.levels[length - 1].find(ids[inside, length - 1], tokens[inside], self.vocabulary)
        return longer

    def contexts(self, texts: list[list[int]]) -> np.ndarray:
        """Give the ids of the contexts of each length at the ends of texts, (B, order) int64."""
        span = self.config.order - 1
        ids = np.full((len(texts), span + 1), OUTSIDE, np.int64)
        ids[:, 0] = 0
        tails = np.full((len(texts), span), -1, np.int64)
        for row, text in enumerate(texts):
            tail = text[-span:] if span else []
            tails[row, span - len(tail) :] = tail
        for column in range(span):
            ids = self.step(ids, tails[:, column])
        return ids

    def log_probabilities(self, inputs: Inputs, cache: History | None = None) -> Tensor:
        """Give log p(next token | tokens so far) and add the new tokens to the cache; positions change nothing here.

        return  (B, V) float32
        """
        if inputs.segments is not None:
            raise ShapeError("ngram.segments")
        history = self.cache(len(inputs.tokens)) if cache is None else cache
        history.add(inputs)
        p = self.distributions(history.ids)  # (B, V)
        return torch.from_numpy(np.log(p).astype(np.float32)).to(inputs.tokens.device)

    def distributions(self, ids: np.ndarray) -> np.ndarray:
        """Give p(next token) after contexts; the same formula as Level.take, for the whole vocabulary.

        ids     (B, order) int64
        return  (B, V) float64
        """
        p = np.full((len(ids), self.vocabulary), 1 / self.vocabulary)
        for length, level in enumerate(self.levels):
            p = self.believed(p.T, ids[:, length]).T
            for row in np.flatnonzero(continued(level, ids[:, length])):
                context = ids[row, length]
                children = slice(level.starts[context], level.starts[context + 1])
                counts = level.counts[children]
                p[row] *= level.backoffs[context]
                p[row, level.keys[children] - context * self.vocabulary] += (counts - level.discounts[np.minimum(counts, 3)]) / (
                    level.totals[context] + level.added
                )
        return p

    def matched_next(self, cache: History) -> np.ndarray:
        """Give the length of the longest context that training continued before the next token of each row, (B,) int64."""
        lengths = np.zeros(len(cache.ids), np.int64)
        for length, level in enumerate(self.levels):
            lengths[continued(level, cache.ids[:, length])] = length
        return lengths

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return {name: value for name, value in asdict(self.config).items() if value is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Give the counts to be saved, about 4 bytes a gram: last tokens, children of each prefix, counts."""
        saved: dict[str, np.ndarray] = {}
        for length, level in enumerate(self.levels, 1):
            saved |= pack(f"{length}.counts", level.counts)
            if length > 1:
                saved |= pack(f"{length}.children", np.diff(level.starts))
                tokens = level.keys % self.vocabulary
                saved[f"{length}.tokens"] = tokens.astype(np.int16 if self.vocabulary <= 1 << 15 else np.int32)
        return {name: torch.from_numpy(array) for name, array in saved.items()}

    @classmethod
    def from_tensors(cls, config: NGramConfig | dict[str, Any], tensors: dict[str, Tensor]) -> NGram:
        """Build a model again from its configuration and its saved counts; it scores as before, to the bit."""
        if isinstance(config, dict):
            known = {name: value for name, value in config.items() if name != "architectures"}
            config = resolve(NGramConfig, ("config.json", known)).value
        saved = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        check_smoothing(config)
        vocabulary, added = config.vocab_size, config.added
        levels = [make_level(np.arange(vocabulary), unpack("1.counts", saved), 1, vocabulary, added)]
        for length in range(2, config.order + 1):
            children = unpack(f"{length}.children", saved)
            keys = np.repeat(np.arange(len(children)), children) * vocabulary + saved[f"{length}.tokens"].astype(np.int64)
            levels.append(make_level(keys, unpack(f"{length}.counts", saved), len(children), vocabulary, added))
        return cls(config, levels)


def check_smoothing(config: NGramConfig) -> None:
    """Raise UsageError when a smoothing is unknown, lacks its strength or is given one that it has not."""
    if config.model_type not in SMOOTHINGS:
        raise UsageError("ngram.smoothing", name=config.model_type, among=SMOOTHINGS)
    strength = config.strength
    if (strength is None) != (config.model_type == "ngram") or not (strength is None or 0 < strength < float("inf")):
        raise UsageError("ngram.strength", smoothing=config.model_type, strength=strength)


def check(tokens: np.ndarray, vocabulary: int, end_id: int, counted: bool = False) -> None:
    """Raise when ids lie outside the vocabulary, or when a text is empty or, to be counted, does not begin with the end token."""
    if len(tokens) == 0 or (counted and tokens[0] != end_id):
        raise DataError("ngram.start", first=int(tokens[0]) if len(tokens) else "-", end_id=end_id)
    check_ids(tokens, vocabulary)


def check_ids(tokens: np.ndarray, vocabulary: int) -> None:
    """Raise when ids lie outside the vocabulary."""
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if len(wrong):
        raise ShapeError("ngram.token", token=int(wrong[0]), vocabulary=vocabulary)


def check_choice(
    train: np.ndarray, validation: np.ndarray | None, vocabulary: int, end_id: int, orders: Iterable[int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Check what a choice is made of: the text to count, the text to choose by, the orders to try, in their order.

    validation  (N,) int or None   None: the last 5 % of the training tokens stand apart
    """
    if validation is None or len(validation) < 2:
        cut = min(max(1, round(len(train) * (1 - HELD_OUT))), max(1, len(train) - 2))
        train, validation = train[:cut], train[cut - 1 :]
    check(train, vocabulary, end_id, counted=True)
    check(validation, vocabulary, end_id)
    wanted = sorted(set(orders))
    if not wanted or wanted[0] < 1:
        raise UsageError("ngram.order", order=wanted[0] if wanted else "-")
    return train, validation, wanted


def best_order(
    train: np.ndarray, validation: np.ndarray | None, vocabulary: int, end_id: int, orders: Iterable[int] = range(1, 11)
) -> tuple[int, dict[int, float]]:
    """Find the order of the lowest loss on validation text; count once, order by order, until the loss has risen twice.

    train       (N,) int
    validation  (N',) int or None   None: the last 5 % of the training tokens stand apart
    return      the order, and {order: nats per token}

    All orders share their lower orders, so that each costs one sort more and one interpolation more.
    """
    train, validation, wanted = check_choice(train, validation, vocabulary, end_id, orders)
    losses: dict[int, float] = {}
    levels = count_levels(train, vocabulary, end_id)
    keys, raw, _ = next(levels)
    p, parents = np.full(len(validation) - 1, 1 / vocabulary), 1
    contexts, reach = np.zeros(len(p), np.int64), reaches(validation, end_id)
    targets = validation[1:].astype(np.int64)
    for order in range(1, wanted[-1] + 1):
        level = make_level(keys, raw, parents, vocabulary)
        grams = level.find(contexts, targets, vocabulary)
        if order in wanted:
            losses[order] = float(-np.log(level.take(p, contexts, grams)).mean())
            risen = [losses[o] for o in sorted(losses)]
            if order == wanted[-1] or (len(risen) > 2 and risen[-1] > risen[-2] > risen[-3]):
                break
        longer, longer_raw, lower = next(levels)
        p = make_level(keys, lower, parents, vocabulary).take(p, contexts, grams)
        contexts = contexts_before(validation, order, reach, grams)
        parents, keys, raw = len(keys), longer, longer_raw
    return min(losses, key=lambda order: (losses[order], order)), losses
