"""Interpolated modified Kneser-Ney: the counted language model, of any order, counted and read by sorted arrays alone.

The grams of one length form a level. A gram's id is its rank among the sorted keys `id of its prefix * V + its last token`, so that a
level is one sorted int64 array, the next level hangs on it, and counting is a sort, reading a binary search.
The end token plays both the start and the end of a document: a context reaches back to it and never over it.
Source: Chen & Goodman 1998, section 3; Heafield et al. 2013 for grams at the start of a document, which keep their raw counts since
nothing precedes them, and for the discounts where counts of counts are missing. Leaves out: pruning, other smoothings.
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

FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)  # Heafield's lmplz --discount_fallback: for texts too small, or too regular, to estimate them
SCORED_AT_ONCE = 1 << 20  # positions; bounds the memory of scoring, no answer depends on it
HELD_OUT = 0.05  # of the training tokens, where the order is chosen and there is no validation text


@dataclass(frozen=True)
class NGramConfig:
    """The shape of an n-gram model.

    order   int, tokens   the longest gram: order - 1 tokens of context and the token itself
    end_id  int           the token that stands before, between and after documents
    """

    vocab_size: int
    order: int
    end_id: int
    model_type: str = "ngram"


@dataclass(frozen=True)
class Level:
    """All grams of one length, sorted by key: N of them, and N' one shorter, their prefixes.

    keys       (N,) int64         id of the prefix * V + last token
    counts     (N,) int32         raw at the highest order; below it, how many different tokens precede the gram
    starts     (N' + 1,) int64     the grams that continue prefix p are starts[p] .. starts[p + 1]
    totals     (N',) float64       sum of counts after a prefix
    backoffs   (N',) float64       the share that a prefix leaves to the shorter context
    discounts  (4,) float64       what is taken off a count of 0, 1, 2, 3 and more
    """

    keys: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    totals: np.ndarray
    backoffs: np.ndarray
    discounts: np.ndarray

    def find(self, prefixes: np.ndarray, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
        """Give the ids of grams, -1 for those never seen; a prefix of -1 was never seen.

        prefixes  (N,) int64
        tokens    (N,) int64
        return    (N,) int64
        """
        ids = np.full(len(prefixes), -1, np.int64)
        known = np.flatnonzero(prefixes >= 0)
        wanted = prefixes[known] * vocabulary + tokens[known]
        places = np.searchsorted(self.keys, wanted)
        there = places < len(self.keys)
        there[there] = self.keys[places[there]] == wanted[there]
        ids[known[there]] = places[there]
        return ids

    def take(self, p: np.ndarray, contexts: np.ndarray, grams: np.ndarray) -> np.ndarray:
        """Interpolate one order more into the probabilities of the order below; the formula of the model.

        p         (N,) float64   p(token | context without its first token)
        contexts  (N,) int64     id of the context, -1 where it was never seen or reaches over a document's start
        grams     (N,) int64     id of the context and the token, -1 where never seen
        return    (N,) float64   (c - D(c)) / total + backoff * p, and p where the context was never continued
        """
        read = np.flatnonzero(contexts >= 0)
        read = read[self.totals[contexts[read]] > 0]
        context = contexts[read]
        count = np.where(grams[read] >= 0, self.counts[grams[read]], 0)
        longer = p.copy()
        longer[read] = (count - self.discounts[np.minimum(count, 3)]) / self.totals[context] + self.backoffs[context] * p[read]
        return longer


def estimate_discounts(counts: np.ndarray) -> np.ndarray:
    """Estimate what to take off counts of 0, 1, 2, 3 and more from the counts of counts.

    counts  (N,) int
    return  (4,) float64   FALLBACK_DISCOUNTS when a count of counts is zero or an estimate is not above 0 and at most j
    Source: Chen & Goodman 1998, eq. 17: Y = n1 / (n1 + 2 n2), D_j = j - (j + 1) Y n_{j+1} / n_j.
    """
    n = np.array([np.count_nonzero(counts == j) for j in range(5)], np.float64)
    if (n[1:] == 0).any():
        return np.array(FALLBACK_DISCOUNTS)
    y = n[1] / (n[1] + 2 * n[2])
    j = np.arange(1, 4)
    discounts = j - (j + 1) * y * n[2:] / n[1:4]
    if (discounts <= 0).any() or (discounts > j).any():
        return np.array(FALLBACK_DISCOUNTS)
    return np.concatenate([[0.0], discounts])


def make_level(keys: np.ndarray, counts: np.ndarray, parents: int, vocabulary: int) -> Level:
    """Derive what reading needs from sorted keys and counts."""
    prefixes = keys // vocabulary
    discounts = estimate_discounts(counts)
    starts = np.concatenate([[0], np.cumsum(np.bincount(prefixes, minlength=parents))])
    totals = np.bincount(prefixes, weights=counts, minlength=parents)
    taken = np.bincount(prefixes, weights=discounts[np.minimum(counts, 3)], minlength=parents)
    backoffs = np.divide(taken, totals, out=np.ones(parents), where=totals > 0)
    return Level(keys, counts, starts, totals, backoffs, discounts)


def reaches(tokens: np.ndarray, end_id: int) -> np.ndarray:
    """Say how many tokens of context each token after the first has: back to the document's start, the end token before it included.

    tokens  (N,) int
    return  (N-1,) int64
    """
    places = np.arange(len(tokens))
    starts = np.maximum.accumulate(np.where(tokens == end_id, places, 0))
    return places[1:] - starts[:-1]


def count_levels(tokens: np.ndarray, vocabulary: int, end_id: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Count grams of length 1, 2, 3, ... without end, one sort a length.

    tokens  (N,) int   [end] document [end] ... [end]
    yields  keys (N,) int64; raw counts (N,) int32; the counts of the length before as a lower order, (N',) int32
    """
    tokens = tokens.astype(np.int64)  # (N,)
    reach = reaches(tokens, end_id)  # (N-1,)
    raw = np.bincount(tokens[1:], minlength=vocabulary).astype(np.int32)  # (V,)
    ids = tokens  # the id of the gram that ends at each place; its own at length 1
    yield np.arange(vocabulary, dtype=np.int64), raw, None
    for length in itertools.count(2):
        places = np.flatnonzero(reach >= length - 1) + 1
        keys = ids[places - 1] * vocabulary + tokens[places]
        order = np.argsort(keys)
        keys = keys[order]
        first = np.empty(len(keys), bool)
        first[:1] = True
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        heads = np.flatnonzero(first)
        # A gram of this length stands for one token that precedes its last length - 1 tokens. Nothing precedes a document's start:
        # the grams that begin there are exactly those that no token precedes, and they keep their raw counts.
        preceded = np.bincount(ids[places[order[heads]]], minlength=len(raw)).astype(np.int32)
        lower = np.where(preceded > 0, preceded, raw)
        raw = np.diff(heads, append=len(keys)).astype(np.int32)
        ids = np.full(len(tokens), -1, np.int64)
        ids[places[order]] = np.cumsum(first) - 1
        yield keys[heads], raw, lower


class History:
    """What an n-gram model remembers of the texts read so far.

    texts  B lists of int     every token read, so that a crop finds its context again
    ids    (B, order) int64   the id of the context of each length 0 .. order - 1, -1 where never seen
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
    """An interpolated modified Kneser-Ney model; a Countable kind."""

    def __init__(self, config: NGramConfig, levels: list[Level]) -> None:
        self.config = config
        self.levels = levels
        self.vocabulary = config.vocab_size

    @classmethod
    def count(cls, tokens: np.ndarray, vocabulary: int, order: int, end_id: int) -> NGram:
        """Count a model of one order.

        tokens  (N,) int   [end] document [end] document ... [end]
        """
        check(tokens, vocabulary, end_id, counted=True)
        if order < 1:
            raise UsageError("ngram.order", order=order)
        counted = list(itertools.islice(count_levels(tokens, vocabulary, end_id), order))
        levels, parents = [], 1
        for place, (keys, raw, _) in enumerate(counted):
            counts = raw if place == order - 1 else counted[place + 1][2]
            levels.append(make_level(keys, counts, parents, vocabulary))
            parents = len(keys)
        return cls(NGramConfig(vocabulary, order, end_id), levels)

    def walk(self, tokens: np.ndarray) -> Iterator[tuple[Level, np.ndarray, np.ndarray]]:
        """Go up the orders: yield a level and the ids of context and of gram, (N-1,) each, for every token after the first."""
        tokens = tokens.astype(np.int64)
        reach = reaches(tokens, self.config.end_id)
        contexts = grams = np.zeros(len(reach), np.int64)
        for length, level in enumerate(self.levels):
            if length == 1:
                contexts = tokens[:-1]
            elif length > 1:
                contexts = np.where(reach >= length, np.concatenate([[-1], grams[:-1]]), -1)
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
                p = level.take(p, contexts, grams)
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
        longer = np.full_like(ids, -1)
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
        ids = np.full((len(texts), span + 1), -1, np.int64)
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
            for row in np.flatnonzero(continued(level, ids[:, length])):
                context = ids[row, length]
                children = slice(level.starts[context], level.starts[context + 1])
                counts = level.counts[children]
                p[row] *= level.backoffs[context]
                p[row, level.keys[children] - context * self.vocabulary] += (
                    counts - level.discounts[np.minimum(counts, 3)]
                ) / level.totals[context]
        return p

    def matched_next(self, cache: History) -> np.ndarray:
        """Give the length of the longest context that training continued before the next token of each row, (B,) int64."""
        lengths = np.zeros(len(cache.ids), np.int64)
        for length, level in enumerate(self.levels):
            lengths[continued(level, cache.ids[:, length])] = length
        return lengths

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

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
        vocabulary = config.vocab_size
        levels = [make_level(np.arange(vocabulary), unpack("1.counts", saved), 1, vocabulary)]
        for length in range(2, config.order + 1):
            children = unpack(f"{length}.children", saved)
            keys = np.repeat(np.arange(len(children)), children) * vocabulary + saved[f"{length}.tokens"].astype(np.int64)
            levels.append(make_level(keys, unpack(f"{length}.counts", saved), len(children), vocabulary))
        return cls(config, levels)


def continued(level: Level, contexts: np.ndarray) -> np.ndarray:
    """Say which contexts training saw, and saw followed by something; (N,) int64 -> (N,) bool."""
    return (contexts >= 0) & (level.totals[contexts] > 0)


def pack(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Store counts, nearly all of them small, in a byte each; those of 255 and more stand apart, with their places."""
    large = np.flatnonzero(values >= 255)
    return {
        name: np.minimum(values, 255).astype(np.uint8),
        f"{name}.places": large.astype(np.int32),
        f"{name}.values": values[large].astype(np.int32),
    }


def unpack(name: str, saved: dict[str, np.ndarray]) -> np.ndarray:
    """Read back what `pack` stored, (N,) int32."""
    values = saved[name].astype(np.int32)
    values[saved[f"{name}.places"]] = saved[f"{name}.values"]
    return values


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


def best_order(
    train: np.ndarray, validation: np.ndarray | None, vocabulary: int, end_id: int, orders: Iterable[int] = range(1, 11)
) -> tuple[int, dict[int, float]]:
    """Find the order of the lowest loss on validation text; count once, order by order, until the loss has risen twice.

    train       (N,) int
    validation  (N',) int or None   None: the last 5 % of the training tokens stand apart
    return      the order, and {order: nats per token}

    All orders share their lower orders, so that each costs one sort more and one interpolation more.
    """
    if validation is None or len(validation) < 2:
        cut = min(max(1, round(len(train) * (1 - HELD_OUT))), max(1, len(train) - 2))
        train, validation = train[:cut], train[cut - 1 :]
    check(train, vocabulary, end_id, counted=True)
    check(validation, vocabulary, end_id)
    wanted = sorted(set(orders))
    if not wanted or wanted[0] < 1:
        raise UsageError("ngram.order", order=wanted[0] if wanted else "-")
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
        contexts = validation[:-1].astype(np.int64) if order == 1 else np.where(reach >= order, np.concatenate([[-1], grams[:-1]]), -1)
        parents, keys, raw = len(keys), longer, longer_raw
    return min(losses, key=lambda order: (losses[order], order)), losses
