"""Batches as a pure function of (seed, step): nothing has to be saved to resume, and any step can be asked for at any time.

Both streams are one endless row of epochs, each a fresh keyed shuffle; step s takes rows s·B to (s+1)·B of it, so a batch may reach from
one epoch into the next and no row is left out. Micro-batches are contiguous slices of a step's rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.core.random import key
from zhixing.data.batch import pad

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

    items  {"tokens": (T,) int, "label": int}
    """

    def __init__(self, items: Sequence[dict[str, Any]], batch: int, seed: int, pad_id: int) -> None:
        if batch < 1:
            raise UsageError("data.batch", batch=batch, window=0)
        if not items:
            raise DataError("data.no_rows")
        self.items, self.batch_rows, self.seed, self.pad_id = items, batch, seed, pad_id
        self.lengths = np.array([len(each["tokens"]) for each in items], dtype=np.int64)  # (N,)
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

        return  {"tokens": (B, T) int64, "lengths": (B,) int64, "labels": (B,) int64}
        """
        places = _places(step, micro, micros, self.batch_rows, len(self.items))
        chosen = np.concatenate([self._epoch(epoch)[place] for epoch, place in places])
        return pad([self.items[each] for each in chosen], self.pad_id)
