"""Batches as a pure function of (seed, step): nothing has to be saved to resume, and any step can be asked for at any time.

Every stream is one endless row of epochs, each a fresh keyed shuffle; step s takes rows s·B to (s+1)·B of it, so a batch may reach from
one epoch into the next and no row is left out. Micro-batches are contiguous slices of a step's rows.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.core.random import key
from zhixing.data.batch import IGNORED, pad, size

ROW_WORDS = 64  # words a row of `Neighbours`: long beside a window, short enough that most products of a row are used
NOISE_POWER = 0.75  # words are drawn by their count to this power. Source: Mikolov et al. 2013, section 2.2
# Of a row's places; of those, by the mask; by a random token. Source: Devlin et al. 2019, section 3.1
MASKED_SHARE, HIDDEN, REPLACED = 0.15, 0.8, 0.1
LEVELLED = 8  # times that an item of a rare sort stands in an epoch, at most: more would be learnt by heart before the rest is known
EVENNESS = 0.5  # how far streams of unlike sizes are mixed evenly: 0 evenly, 1 by size
POOL_BATCHES = 32  # rows of so many batches are sorted by length together: little padding, order still random


def generator(*parts: int | str) -> np.random.Generator:
    """Give the generator that belongs to these parts and to nothing else."""
    return np.random.Generator(np.random.Philox(key(*parts)))


def _places(step: int, micro: int, micros: int, batch: int, size: int) -> list[tuple[int, np.ndarray]]:
    """Say which places of which epochs a micro-batch takes: (epoch, places) pairs, in order."""
    if not 0 <= micro < micros <= batch:
        raise UsageError("data.micros", batch=batch, micro=micro, micros=micros)
    first = step * batch + micro * batch // micros
    last = step * batch + (micro + 1) * batch // micros
    rows = np.arange(first, last)
    epochs = rows // size
    return [(int(epoch), rows[epochs == epoch] - int(epoch) * size) for epoch in np.unique(epochs)]


class Windows:
    """Windows of one long run of tokens, for next-token prediction.

    Each epoch cuts at another random phase and shuffles the windows, so that every token is a target at most once an epoch and no token
    is always the first of its window.

    tokens  (N,) int        may be a memory map
    batch   int             rows a step
    window  int, tokens     targets a row; a window reads window + 1 tokens
    """

    def __init__(self, tokens: np.ndarray, batch: int, window: int, seed: int) -> None:
        if batch < 1 or window < 1:
            raise UsageError("data.batch", batch=batch, window=window)
        if len(tokens) < window + 1:
            raise DataError("data.short", tokens=len(tokens), window=window)
        self.tokens, self.batch_rows, self.window, self.seed = tokens, batch, window, seed
        self.windows = max(1, (len(tokens) - window) // window)  # as many as fit at every phase
        self.phases = min(window, len(tokens) - self.windows * window)
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which every window of an epoch was seen."""
        return math.ceil(self.windows / self.batch_rows)

    def _order(self, epoch: int) -> np.ndarray:
        """Give the starts of an epoch's windows in their order: (windows,) int64."""
        source = generator(self.seed, "windows", epoch)
        phase = int(source.integers(self.phases))
        return phase + self.window * source.permutation(self.windows)

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step.

        return  {"tokens": (B, T) int64, "targets": (B, T) int64}   targets are the tokens one place later
        """
        places = _places(step, micro, micros, self.batch_rows, self.windows)
        starts = np.concatenate([self._epoch(epoch)[place] for epoch, place in places])  # (B,)
        rows = np.asarray(self.tokens[starts[:, None] + np.arange(self.window + 1)], dtype=np.int64)  # (B, T + 1)
        return {"tokens": np.ascontiguousarray(rows[:, :-1]), "targets": np.ascontiguousarray(rows[:, 1:])}


class Rows:
    """Separate items, each once an epoch, padded; items of like length share a batch.

    items  {"tokens": (T,) int, "label": int}, or what else `pad` puts side by side
    """

    def __init__(self, items: Sequence[dict[str, Any]], batch: int, seed: int, pad_id: int) -> None:
        if batch < 1:
            raise UsageError("data.batch", batch=batch, window=0)
        if not items:
            raise DataError("data.no_rows")
        self.items, self.batch_rows, self.seed, self.pad_id = items, batch, seed, pad_id
        self.lengths = np.array([size(each) for each in items], dtype=np.int64)  # (N,)
        self._epoch: Callable[[int], np.ndarray] = functools.lru_cache(maxsize=2)(self._order)

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which every item of an epoch was seen."""
        return math.ceil(len(self.items) / self.batch_rows)

    def _order(self, epoch: int) -> np.ndarray:
        """Give an epoch's items in their order: (N,) int64."""
        source = generator(self.seed, "rows", epoch)
        order = source.permutation(len(self.items))
        head = min(-epoch * len(self.items) % self.batch_rows, len(order))  # rows that complete the last epoch's last batch
        whole = (len(order) - head) // self.batch_rows
        body, tail = order[head : head + whole * self.batch_rows], order[head + whole * self.batch_rows :]
        pool = POOL_BATCHES * self.batch_rows
        runs = [body[start : start + pool] for start in range(0, len(body), pool)]
        runs = [run[np.argsort(self.lengths[run], kind="stable")] for run in runs]
        if runs:
            batches = np.concatenate(runs).reshape(whole, self.batch_rows)
            body = batches[source.permutation(whole)].ravel()
        return np.concatenate([order[:head], body, tail])

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step.

        return  {"tokens": (B, T) int64, "lengths": (B,) int64, "labels": (B,) int64}, or what the items hold
        """
        places = _places(step, micro, micros, self.batch_rows, len(self.items))
        chosen = np.concatenate([self._epoch(epoch)[place] for epoch, place in places])
        return pad([self.items[each] for each in chosen], self.pad_id)


class Mixture:
    """Several streams as one: each step is one of them, drawn so that an epoch holds each as often as its share says.

    A stream's share is its steps an epoch to the power of `evenness`: with 1 each row of all is seen equally often, with 0 each stream.
    Which step of its own a stream is at is counted from the epoch and the place in it, so the mixture too is a pure function of the step.
    Source: Conneau and Lample 2019, section 3.1, arXiv:1901.07291 (shares by a power).
    """

    def __init__(self, streams: Sequence[Rows], seed: int, evenness: float = EVENNESS) -> None:
        sizes = np.array([each.steps_per_epoch for each in streams], np.float64)  # one a stream
        shares = sizes**evenness
        self.streams, self.seed = list(streams), seed
        self.turns = np.maximum(1, np.round(sizes.sum() * shares / shares.sum())).astype(np.int64)  # one a stream
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which the streams begin anew."""
        return int(self.turns.sum())

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Give an epoch's streams in their order, and the step that each is at, both (steps,) int64."""
        source = generator(self.seed, "mixture", epoch)
        order = source.permutation(np.repeat(np.arange(len(self.turns)), self.turns))
        steps = np.empty_like(order)
        for number, turns in enumerate(self.turns):
            steps[order == number] = epoch * turns + np.arange(turns)
        return order, steps

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step, all of one stream."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, steps = self._epoch(epoch)
        return self.streams[order[place]].batch(int(steps[place]), micro, micros)


def rows(
    items: Sequence[dict[str, Any]], sorts: Sequence[Any], batch: int, seed: int, pad_id: int, evenness: float = EVENNESS
) -> Rows | Mixture:
    """Make the stream of a task's items: one of rows, or a mixture where the items are of several parts, each as its "part" says.

    sorts  which sort each item is of (`level`)
    """
    parts: dict[Any, tuple[list[dict[str, Any]], list[Any]]] = {}
    for item, sort in zip(items, sorts, strict=True):
        group = parts.setdefault(item.get("part"), ([], []))
        group[0].append(item)
        group[1].append(sort)
    if not parts:
        raise DataError("data.no_rows")
    streams = [Rows(level(*parts[part]), min(batch, len(parts[part][0])), seed, pad_id) for part in sorted(parts, key=str)]
    return streams[0] if len(streams) == 1 else Mixture(streams, seed, evenness)


def level(items: Sequence[dict[str, Any]], sorts: Sequence[Any]) -> list[dict[str, Any]]:
    """Repeat the items of rarer sorts, so that an epoch holds about as many of each sort, but none more than LEVELLED times.

    sorts  which sort each item is of: such as which of several answers it has
    """
    counts = Counter(sorts)
    most = max(counts.values(), default=1)
    times = {sort: min(LEVELLED, round(most / count)) for sort, count in counts.items()}
    return [item for item, sort in zip(items, sorts, strict=True) for _ in range(times[sort])]


class Masked:
    """The rows of another stream with some of their tokens hidden, which are to be told from the rest.

    Of each row, 15 % of the places are targets, at least one: 80 % of these hold the mask, 10 % a random token, 10 % what they held. They
    are drawn anew in every step, by a generator of the step and the row, so that they do not depend on the number of micro-batches.
    Source: Devlin et al. 2019, section 3.1, arXiv:1810.04805. Differs: drawn anew each time, as in Liu et al. 2019, arXiv:1907.11692.

    stream      of rows of tokens, `Windows` or `Rows`
    mask        int    the model's token for what is hidden
    vocabulary  int    random tokens are drawn below it
    """

    def __init__(self, stream: Windows | Rows, mask: int, vocabulary: int, seed: int) -> None:
        self.stream, self.mask, self.vocabulary, self.seed = stream, mask, vocabulary, seed
        self.batch_rows = stream.batch_rows

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which every row of an epoch was seen."""
        return self.stream.steps_per_epoch

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step.

        return  what the stream gave, with "tokens" as the model may see them and {"targets": (B, T) int64}, IGNORED where none is hidden
        """
        batch = self.stream.batch(step, micro, micros)
        tokens = batch["tokens"].copy()  # (B, T)
        targets = np.full_like(tokens, IGNORED)  # (B, T)
        first = micro * self.batch_rows // micros
        for row, length in enumerate(batch.get("lengths", np.full(len(tokens), tokens.shape[1]))):
            source = generator(self.seed, "masked", step, first + row)
            count = min(int(length), max(1, round(MASKED_SHARE * int(length))))
            places = source.permutation(int(length))[:count]
            how, drawn = source.random(count), source.integers(self.vocabulary, size=count)
            targets[row, places] = tokens[row, places]
            tokens[row, places] = np.select([how < HIDDEN, how < HIDDEN + REPLACED], [self.mask, drawn], tokens[row, places])
        return {**batch, "tokens": tokens, "targets": targets}


def kept_share(counts: np.ndarray, subsample: float) -> np.ndarray:
    """Give the probability with which each place of a word is kept: 1 for rare words, ever less for the most frequent.

    counts     (V,) int
    subsample  the share of the text above which a word is thinned out; 0: never
    return     (V,) float64

    Source: Mikolov et al. 2013, section 2.3. Differs: sqrt(t / f) + t / f, as in their code, not sqrt(t / f).
    """
    if not subsample:
        return np.ones(len(counts))
    ratio = subsample * max(1, counts.sum()) / np.maximum(counts, 1)
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


class Neighbours:
    """Rows of words in the order of the text, whose neighbours are to be told, each with words drawn at random.

    Each epoch drops other places of frequent words, and what is left is cut into rows anew, from another start; a row may reach into the
    next text and, the last of them, from the end of the text to its beginning: `texts` says which words belong together.

    words      (N,) int      each 0 <= word < V; places without a word are left out by the caller
    texts      (N,) int      which text each place belongs to
    counts     (V,) int      of each word in the training text
    batch      int           rows a step, of ROW_WORDS words each
    drawn      int           words drawn for a row; 0: none
    subsample  float         as in `kept_share`
    """

    def __init__(
        self, words: np.ndarray, texts: np.ndarray, counts: np.ndarray, batch: int, seed: int, drawn: int = 0, subsample: float = 0.0
    ) -> None:
        if batch < 1:
            raise UsageError("data.batch", batch=batch, window=0)
        self.words, self.texts, self.batch_rows, self.seed, self.drawn = words, texts, batch, seed, drawn
        self.kept = kept_share(counts, subsample).astype(np.float32)  # (V,)
        expected = float(self.kept[words].sum(dtype=np.float64))
        if expected < 1:
            raise DataError("data.no_words")
        self.rows = max(1, round(expected / ROW_WORDS))
        noise = np.cumsum(counts.astype(np.float64) ** NOISE_POWER)  # (V,)
        self.noise = noise / noise[-1]
        self._epoch: Callable[[int], tuple[np.ndarray, np.ndarray]] = functools.lru_cache(maxsize=2)(self._order)

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which every row of an epoch was seen."""
        return math.ceil(self.rows / self.batch_rows)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Give an epoch's rows in their order: words and texts, both (rows, ROW_WORDS)."""
        source = generator(self.seed, "neighbours", epoch)
        alive = np.flatnonzero(source.random(len(self.words), dtype=np.float32) < self.kept[self.words])
        if not len(alive):  # a text of a few words, all of them unlucky
            alive = np.arange(len(self.words))
        turns, places = np.divmod(int(source.integers(len(alive))) + np.arange(self.rows * ROW_WORDS), len(alive))
        chosen = alive[places]
        texts = self.texts[chosen] + turns * (int(self.texts[-1]) + 1)  # the beginning does not follow the end
        order = source.permutation(self.rows)
        return self.words[chosen].reshape(self.rows, ROW_WORDS)[order], texts.reshape(self.rows, ROW_WORDS)[order]

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step.

        return  {"words": (B, T) int64, "texts": (B, T) int64, "negatives": (B, N) int64 when words are drawn}
        """
        places = _places(step, micro, micros, self.batch_rows, self.rows)
        parts = [(self._epoch(epoch)[0][place], self._epoch(epoch)[1][place]) for epoch, place in places]
        words, texts = (np.concatenate(each).astype(np.int64) for each in zip(*parts, strict=True))  # both (B, T)
        if not self.drawn:
            return {"words": words, "texts": texts}
        # Drawn for the whole step and then cut, so that the words do not depend on the number of micro-batches.
        source = generator(self.seed, "negatives", step)
        drawn = np.searchsorted(self.noise, source.random((self.batch_rows, self.drawn)), side="right")
        first, last = (each * self.batch_rows // micros for each in (micro, micro + 1))
        return {"words": words, "texts": texts, "negatives": np.minimum(drawn, len(self.noise) - 1)[first:last]}
