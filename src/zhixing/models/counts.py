"""Counts of n-grams as sorted arrays, and the one formula by which an order more is read from them: what counted models share.

The grams of one length form a level. A gram's id is its rank among the sorted keys `id of its prefix * V + its last token`, so that a
level is one sorted int64 array, the next level hangs on it, and counting is a sort, reading a binary search.
The end token plays both the start and the end of a document: a context reaches back to it and never over it.
Sources: Chen & Goodman 1998, section 3 (Kneser-Ney); MacKay & Peto 1995 (Dirichlet). Heafield et al. 2013 for grams at the start of a
document, which keep their raw counts in Kneser-Ney since nothing precedes them, and for discounts where counts of counts are missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)  # Heafield's lmplz --discount_fallback: for texts too small, or too regular, to estimate them
UNSEEN, OUTSIDE = -1, -2  # ids of a context that training never saw, and of one that would reach over its text's start


@dataclass(frozen=True)
class Level:
    """All grams of one length, sorted by key: N of them, and N' one shorter, their prefixes.

    keys       (N,) int64         id of the prefix * V + last token
    counts     (N,) int32         raw; in Kneser-Ney below the highest order, how many different tokens precede the gram
    starts     (N' + 1,) int64     the grams that continue prefix p are starts[p] .. starts[p + 1]
    totals     (N',) float64       sum of counts after a prefix
    backoffs   (N',) float64       the share that a prefix leaves to the shorter context
    discounts  (4,) float64       what is taken off a count of 0, 1, 2, 3 and more; nothing under a Dirichlet
    added      float              pseudo-counts that a Dirichlet prior adds to every context; 0 in Kneser-Ney
    """

    keys: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    totals: np.ndarray
    backoffs: np.ndarray
    discounts: np.ndarray
    added: float = 0.0

    def find(self, prefixes: np.ndarray, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
        """Give the ids of grams, UNSEEN for those never seen; what goes on from UNSEEN or from OUTSIDE stays there.

        prefixes  (N,) int64
        tokens    (N,) int64
        return    (N,) int64
        """
        ids = np.minimum(prefixes, UNSEEN)
        known = np.flatnonzero(prefixes >= 0)
        wanted = prefixes[known] * vocabulary + tokens[known]
        places = np.searchsorted(self.keys, wanted)
        there = places < len(self.keys)
        there[there] = self.keys[places[there]] == wanted[there]
        ids[known[there]] = places[there]
        return ids

    def take(self, p: np.ndarray, contexts: np.ndarray, grams: np.ndarray) -> np.ndarray:
        """Interpolate one order more into the probabilities of the order below; the formula of the model.

        p         (N,) float64   p(token | context without its first token), or what else is believed of a context never seen
        contexts  (N,) int64     id of the context, negative where it was never seen or reaches over a document's start
        grams     (N,) int64     id of the context and the token, negative where never seen
        return    (N,) float64   (c - D(c)) / (total + added) + backoff * p, and p where the context was never continued
        """
        read = np.flatnonzero(contexts >= 0)
        read = read[self.totals[contexts[read]] > 0]
        context = contexts[read]
        count = np.where(grams[read] >= 0, self.counts[grams[read]], 0)
        longer = p.copy()
        kept = (count - self.discounts[np.minimum(count, 3)]) / (self.totals[context] + self.added)
        longer[read] = kept + self.backoffs[context] * p[read]
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


def make_level(keys: np.ndarray, counts: np.ndarray, parents: int, vocabulary: int, added: float | None = None) -> Level:
    """Derive what reading needs from sorted keys and counts.

    added  pseudo-counts of a Dirichlet prior on every context; None: Kneser-Ney
    """
    prefixes = keys // vocabulary
    starts = np.concatenate([[0], np.cumsum(np.bincount(prefixes, minlength=parents))])
    totals = np.bincount(prefixes, weights=counts, minlength=parents)
    if added is not None:
        return under_prior(Level(keys, counts, starts, totals, np.zeros(0), np.zeros(4)), added)
    discounts = estimate_discounts(counts)
    taken = np.bincount(prefixes, weights=discounts[np.minimum(counts, 3)], minlength=parents)
    backoffs = np.divide(taken, totals, out=np.ones(parents), where=totals > 0)
    return Level(keys, counts, starts, totals, backoffs, discounts)


def under_prior(level: Level, added: float) -> Level:
    """Give a level of raw counts under a Dirichlet prior of so many pseudo-counts a context, shared out by the shorter context's p.

    The posterior's mean is then (c + added * p) / (total + added).
    """
    return replace(level, backoffs=added / (level.totals + added), discounts=np.zeros(4), added=added)


def reaches(tokens: np.ndarray, end_id: int) -> np.ndarray:
    """Say how many tokens of context each token after the first has: back to the document's start, the end token before it included.

    tokens  (N,) int
    return  (N-1,) int64
    """
    places = np.arange(len(tokens))
    starts = np.maximum.accumulate(np.where(tokens == end_id, places, 0))
    return places[1:] - starts[:-1]


def contexts_before(tokens: np.ndarray, length: int, reach: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """Give the ids of the contexts of one length before each token after the first.

    tokens  (N,) int
    reach   (N-1,) int64   of the tokens after the first
    grams   (N-1,) int64   ids of the grams of this length that end at each token after the first
    return  (N-1,) int64   UNSEEN where training never saw the context, OUTSIDE where the text has none so long
    """
    if length == 0:
        return np.zeros(len(tokens) - 1, np.int64)
    if length == 1:
        return tokens[:-1].astype(np.int64)
    return np.where(reach >= length, np.concatenate([[UNSEEN], grams[:-1]]), OUTSIDE)


def in_order(keys: np.ndarray, places: np.ndarray, keys_end: int, places_end: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort keys, and the places that they stand at with them; places of equal keys in no promised order.

    Both are packed into one number where they fit: plain numbers are sorted several times as fast as places are sorted by their keys, and
    the time grows as the text does, not with how far a key lies from where it is needed.

    keys, places          (N,) int64
    keys_end, places_end  int    above all of each

    return  two (N,) int64
    """
    bits = places_end.bit_length()
    if keys_end.bit_length() + bits > 64:
        order = np.argsort(keys)
        return keys[order], places[order]
    packed = keys.astype(np.uint64) << np.uint64(bits)
    packed |= places.astype(np.uint64)
    packed.sort()
    return (packed >> np.uint64(bits)).astype(np.int64), (packed & np.uint64((1 << bits) - 1)).astype(np.int64)


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
        keys, places = in_order(ids[places - 1] * vocabulary + tokens[places], places, len(raw) * vocabulary, len(tokens))
        first = np.empty(len(keys), bool)
        first[:1] = True
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        heads = np.flatnonzero(first)
        # A gram of this length stands for one token that precedes its last length - 1 tokens. Nothing precedes a document's start:
        # the grams that begin there are exactly those that no token precedes, and they keep their raw counts.
        preceded = np.bincount(ids[places[heads]], minlength=len(raw)).astype(np.int32)
        lower = np.where(preceded > 0, preceded, raw)
        raw = np.diff(heads, append=len(keys)).astype(np.int32)
        ids = np.full(len(tokens), -1, np.int64)
        ids[places] = np.cumsum(first) - 1
        yield keys[heads], raw, lower


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
