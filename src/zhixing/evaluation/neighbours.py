"""Rivals of vectors of words that only count which words stand near each other, and what all of them are asked: log p(context word | word).

`unigram`  how often a word stands anywhere
`counts`   how often it stood near the given one, falling back on the unigram: a Dirichlet prior, its weight chosen on validation
`pmi_svd`  the largest singular vectors of the positive pointwise mutual information, as many as the model's vectors are wide; what is cut
           off there is exactly what is thrown away. Source: Levy and Goldberg 2014, "Neural word embedding as implicit matrix
           factorization"; Levy et al. 2015, TACL 3, for context words' counts to the power 0.75 and for roots of the singular values.
They count the pairs that the model learns from, in the training text, each as near as it is. Vectors, theirs and the model's, are read as
log p(c | w) = temperature · product + log base(c) - log of the sum over all c, with the temperature chosen on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from zhixing.data.stream import NOISE_POWER, Neighbours

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS_AT_ONCE = 512  # whose distributions over the vocabulary stand in memory at once
COUNTED_WORDS = 5_000_000  # read at most for counting, in several passes over a smaller text, each thinned out anew
MOST_PASSES = 5
PAIRS_AT_ONCE = 4_000_000
SVD_ITERATIONS = 5
PRIORS = (10.0, 100.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0)  # pairs' worth of the unigram
TEMPERATURES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)


@dataclass(frozen=True)
class Pairs:
    """Words that stand near each other in a text, and words drawn at random beside them.

    words, contexts  (N,) int
    weights          (N,) float         how near: 1 beside it, 1 / window at its edge
    rows             (N,) int           the row of text that each pair comes from
    drawn            (B, C) int         for each row, words drawn by their count to the power 0.75
    """

    words: np.ndarray
    contexts: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    drawn: np.ndarray

    def first(self, rows: int) -> Pairs:
        """Give the pairs of the first rows."""
        kept = self.rows < rows
        return Pairs(self.words[kept], self.contexts[kept], self.weights[kept], self.rows[kept], self.drawn[:rows])


def pair(words: np.ndarray, texts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give every pair of places of rows within the window and in one text, the left one first.

    words, texts  (B, T) int
    return        words, contexts, weights and rows, each (N,)
    """
    rows = np.broadcast_to(np.arange(len(words))[:, None], words.shape)  # (B, T)
    found = []
    for distance in range(1, min(window, words.shape[1] - 1) + 1):
        same = texts[:, distance:] == texts[:, :-distance]
        weight = np.full(np.count_nonzero(same), (window + 1 - distance) / window)
        found.append((words[:, :-distance][same], words[:, distance:][same], weight, rows[:, distance:][same]))
    first, second, weights, row = (np.concatenate(each) for each in zip(*found, strict=True))
    return first, second, weights, row


def epoch(stream: Neighbours, number: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Give the rows of one epoch of a stream, each once, batch by batch; the batches' cuts need not be those of its epochs."""
    first, last = number * stream.rows, (number + 1) * stream.rows
    for step in range(first // stream.batch_rows, -(-last // stream.batch_rows)):
        at = step * stream.batch_rows
        kept = slice(max(first - at, 0), min(last - at, stream.batch_rows))
        yield {name: value[kept] for name, value in stream.batch(step).items()}


def collect(stream: Neighbours, window: int, most: int) -> Pairs:
    """Give the pairs of the first epoch of a stream that draws words, both ways round; of `most` rows at most."""
    parts, drawn, rows = [], [], 0
    for batch in epoch(stream):
        batch = {name: value[: most - rows] for name, value in batch.items()}
        first, second, weights, row = pair(batch["words"], batch["texts"], window)
        parts += [(first, second, weights, row + rows), (second, first, weights, row + rows)]
        drawn.append(batch["negatives"])
        rows += len(batch["words"])
        if rows >= most:
            break
    return Pairs(*(np.concatenate(each) for each in zip(*parts, strict=True)), np.concatenate(drawn))


class Teller(Protocol):
    """What tells the words near a word."""

    def table(self, words: np.ndarray) -> np.ndarray:
        """Give log p(c | w) of every word c: (B,) int words to (B, N) float."""


@dataclass(frozen=True)
class Unigram:
    """Any word's neighbours are the text's words. base: (N,) float, log p(c)."""

    base: np.ndarray

    def table(self, words: np.ndarray) -> np.ndarray:
        """Give log p(c) for every word."""
        return np.broadcast_to(self.base, (len(words), len(self.base)))


@dataclass(frozen=True)
class Counted:
    """Shares of counted neighbours, with a prior.

    near   (N, N) sparse   how often words stood near each other
    base   (N,) float      log p(c)
    prior  float           how many pairs' worth of it
    """

    near: csr_matrix
    base: np.ndarray
    prior: float = 100.0

    def table(self, words: np.ndarray) -> np.ndarray:
        """Give log((n(w, c) + prior p(c)) / (n(w) + prior))."""
        rows = self.near[words].toarray()  # (B, N)
        return np.log((rows + self.prior * np.exp(self.base)) / (rows.sum(1, keepdims=True) + self.prior))


@dataclass(frozen=True)
class Vectors:
    """Products of vectors.

    words, contexts  (N, D) float32
    base             (N,) float       what the softmax of the products is multiplied by, as a logarithm
    temperature      float            multiplies the products
    """

    words: np.ndarray
    contexts: np.ndarray
    base: np.ndarray
    temperature: float = 1.0

    def table(self, words: np.ndarray) -> np.ndarray:
        """Give the logarithm of the softmax."""
        logits = self.temperature * (self.words[words] @ self.contexts.T) + self.base.astype(np.float32)  # (B, N)
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def count(stream: Neighbours, window: int, size: int) -> csr_matrix:
    """Count how often words stand near each other, each as near as it is: (N, N), symmetric."""
    from scipy.sparse import csr_matrix

    passes = min(MOST_PASSES, max(1, COUNTED_WORDS // max(1, len(stream.words))))
    total = csr_matrix((size, size))
    held: list[tuple[np.ndarray, ...]] = []

    def add() -> csr_matrix:
        first, second, weights = (np.concatenate(each) for each in zip(*held, strict=True))
        return csr_matrix((weights, (first, second)), shape=(size, size))

    for number in range(passes):
        for batch in epoch(stream, number):
            held.append(pair(batch["words"], batch["texts"], window)[:3])
            if sum(len(each[0]) for each in held) >= PAIRS_AT_ONCE:
                total = total + add()
                held.clear()
    if held:
        total = total + add()
    return (total + total.T).tocsr() / passes


def factorize(near: csr_matrix, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give words' and context words' vectors by the singular vectors of the positive pointwise mutual information, and log base(c).

    near    (N, N) sparse
    return  two (N, D) float32 and (N,) float
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    sums = np.asarray(near.sum(1)).ravel()  # (N,)
    base = np.log(np.maximum(sums, 1e-9) ** NOISE_POWER / (np.maximum(sums, 1e-9) ** NOISE_POWER).sum())
    pairs = near.tocoo()
    information = np.log(pairs.data / sums[pairs.row]) - base[pairs.col]  # log p(c | w) / base(c)
    positive = information > 0
    matrix = csr_matrix((information[positive], (pairs.row[positive], pairs.col[positive])), shape=near.shape)
    width = min(width, near.shape[0])
    left, values, right = randomized_svd(matrix, width, n_iter=SVD_ITERATIONS, random_state=0)
    roots = np.sqrt(values)
    return (left * roots).astype(np.float32), (right.T * roots).astype(np.float32), base


def tell_pairs(teller: Teller, pairs: Pairs, noise: np.ndarray, ranked: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Give log p of every pair's context word, and its reciprocal rank among the words drawn for its row.

    noise   (N,) float    log of what the words were drawn by: what is ranked is log p(c | w) less it
    ranked  False: no ranks
    return  two (N,) float, N pairs
    """
    logs, ranks = np.zeros(len(pairs.words)), np.zeros(len(pairs.words))
    order = np.argsort(pairs.words, kind="stable")
    distinct, starts = np.unique(pairs.words[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for at in range(0, len(distinct), WORDS_AT_ONCE):
        part = slice(at, at + WORDS_AT_ONCE)
        table = teller.table(distinct[part])  # (B, N)
        chosen = order[starts[part][0] : ends[part][-1]]
        row = np.repeat(np.arange(len(distinct[part])), ends[part] - starts[part])
        logs[chosen] = table[row, pairs.contexts[chosen]]
        if ranked:
            drawn = pairs.drawn[pairs.rows[chosen]]  # (N, C)
            own = logs[chosen] - noise[pairs.contexts[chosen]]
            others = table[row[:, None], drawn] - noise[drawn]  # (N, C)
            same = drawn == pairs.contexts[chosen][:, None]  # the true word itself is no rival
            better = ((others > own[:, None]) & ~same).sum(1) + 0.5 * ((others == own[:, None]) & ~same).sum(1)
            ranks[chosen] = 1.0 / (1.0 + better)
    return logs, ranks


def choose(make: Callable[[float], Teller], among: tuple[float, ...], pairs: Pairs, noise: np.ndarray) -> float:
    """Give the setting with which a teller tells these pairs best."""
    nats = [-np.dot(tell_pairs(make(each), pairs, noise, ranked=False)[0], pairs.weights) for each in among]
    return among[int(np.argmin(nats))]
