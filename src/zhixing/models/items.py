"""What comes next in a history of items, by counting: popularity, neighbours or followers of the last items, and EASE, a linear map.

A history is a list of item numbers, the oldest first. Every model scores every item; items of the history itself can be ruled out.
Sources: Sarwar et al. 2001 (item-based neighbours; followers are such by their places in a history instead of by its user); Steck 2019,
arXiv:1905.03375 (EASE). Leaves out: ratings, what users or items are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REMARKS = frozenset({"architectures"})
ROWS_AT_ONCE = 256  # histories; bounds the memory of a product
SHRINK = 10.0  # users, added to every product of lengths: what few share says little
# Of followers, chosen on the last items but one of MovieLens: a pair counts less the other way round, and less the more frequent the items.
BACKWARDS, RARE_FROM, RARE_TO = 0.5, 0.5, 0.2
FAINTEST = 0.1  # of a pair's weight by distance; farther apart than that, items are no pair

History = Sequence[int]


@dataclass(frozen=True)
class PopularityConfig:
    """How many items there are."""

    item_count: int
    model_type: str = "popularity"


@dataclass(frozen=True)
class NeighboursConfig:
    """How an item's neighbours, or its followers, were found and how a history is read.

    item_count  int
    neighbours  int      kept of each item, the nearest
    decay       float    what an item counts less than the one after it
    reach       float    of followers: what a pair counts less for each place that the two are farther apart; 0: neighbours
    share       float    of followers: the weight of the neighbours' cosines among them
    """

    item_count: int
    neighbours: int = 100
    decay: float = 0.6
    reach: float = 0.0
    share: float = 0.0
    model_type: str = "item_neighbours"


@dataclass(frozen=True)
class EaseConfig:
    """How EASE was fitted and how a history is read.

    item_count  int
    strength    float    lambda, of the L2 prior on the weights
    last        int      items of a history that are read, the newest; 0: all
    """

    item_count: int
    strength: float = 100.0
    last: int = 10
    model_type: str = "ease"


def check(histories: Sequence[History], item_count: int, model: str = "") -> None:
    """Raise when an item is none, or, for a model to be fitted, when there is no item at all."""
    if model and not any(len(history) for history in histories):
        raise DataError("fit.rows", model=model, rows=0, answers=0)
    for row, history in enumerate(histories):
        for item in history:
            if not 0 <= item < item_count:
                raise DataError("items.unknown", row=row, item=item, item_count=item_count)


def spread(histories: Sequence[History], item_count: int, decay: float = 1.0, last: int = 0) -> csr_matrix:
    """Turn histories into rows over items: the newest counts 1, each one before it `decay` times as much; an item counts once, as newest.

    last    items that are read, the newest; 0: all
    return  (B, N) float64
    """
    from scipy.sparse import csr_matrix

    rows, items, values = [], [], []
    for row, history in enumerate(histories):
        seen = list(dict.fromkeys(reversed(history[-last:] if last else history)))
        rows += [row] * len(seen)
        items += seen
        values += [decay**age for age in range(len(seen))]
    return csr_matrix((values, (rows, items)), shape=(len(histories), item_count), dtype=np.float64)


def followers(histories: Sequence[History], item_count: int, reach: float) -> csr_matrix:
    """Count the pairs of items near each other: `reach` to the power of the places between them, for every time the second came after.

    return  (N, N) float64, from an item to what came after it, and BACKWARDS as much to what came before; frequent items weighed down
    """
    from scipy.sparse import csr_matrix, diags

    items = np.concatenate([np.asarray(history, np.int64) for history in histories])
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    pairs = csr_matrix((item_count, item_count))
    apart, weight = 1, 1.0
    while weight > FAINTEST and apart < len(items):
        one = users[:-apart] == users[apart:]
        first, second = items[:-apart][one], items[apart:][one]
        pairs = pairs + csr_matrix((np.full(len(first), weight), (first, second)), shape=pairs.shape)
        apart, weight = apart + 1, weight * reach
    counts = np.bincount(items, minlength=item_count) + 1.0
    return (diags(counts**-RARE_FROM) @ (pairs + BACKWARDS * pairs.T) @ diags(counts**-RARE_TO)).tocsr()


def rule_out(scores: np.ndarray, histories: Sequence[History]) -> np.ndarray:
    """Set the score of every item of a row's history to -inf, in place."""
    for row, history in enumerate(histories):
        scores[row, np.asarray(history, np.int64)] = -np.inf
    return scores


class Popularity:
    """How many histories have each item: counts (N,) int64."""

    arrays = True

    def __init__(self, config: PopularityConfig, counts: np.ndarray) -> None:
        self.config = config
        self.counts = counts

    @classmethod
    def fit(cls, histories: Sequence[History], item_count: int) -> Popularity:
        """Count histories; raises DataError naming the row with an item that is none."""
        check(histories, item_count, "popularity")
        counts = np.zeros(item_count, np.int64)
        for history in histories:
            counts[np.unique(np.asarray(history, np.int64))] += 1
        return cls(PopularityConfig(item_count), counts)

    def scores(self, histories: Sequence[History], unseen: bool = True) -> np.ndarray:
        """Give every item's score after each history: (B, N) float64; with unseen, the history's own items at -inf."""
        check(histories, self.config.item_count)
        found = np.tile(self.counts.astype(np.float64), (len(histories), 1))
        return rule_out(found, histories) if unseen else found

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"counts": self.counts}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Popularity:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(PopularityConfig, dict(config), REMARKS), np.asarray(tensors["counts"]))


class Neighbours:
    """A history's items vote for their neighbours, which the same users chose, or for their followers; the newest with the most weight.

    starts   (N+1,) int64    where each item's neighbours begin
    items    (E,) int32      the neighbours
    cosines  (E,) float32    users of both / (square root of users of one * users of the other + SHRINK); of followers, their weights
    """

    arrays = True

    def __init__(self, config: NeighboursConfig, starts: np.ndarray, items: np.ndarray, cosines: np.ndarray) -> None:
        self.config = config
        self.starts, self.items, self.cosines = starts, items, cosines

    @classmethod
    def fit(cls, histories: Sequence[History], item_count: int, neighbours: int = 100, decay: float = 0.6) -> Neighbours:
        """Find each item's nearest items, equal ones in the order of their numbers.

        Raises UsageError for a decay outside (0, 1], DataError naming the row with an item that is none.
        """
        config = NeighboursConfig(item_count, neighbours, decay)
        return cls._nearest(config, histories, None)

    @classmethod
    def follow(
        cls,
        histories: Sequence[History],
        item_count: int,
        neighbours: int = 300,
        decay: float = 0.65,
        reach: float = 0.8,
        share: float = 0.1,
    ) -> Neighbours:
        """Find each item's followers: what came soon after it, and less so soon before it, with some of its neighbours.

        Raises as `fit` does.
        """
        config = NeighboursConfig(item_count, neighbours, decay, reach, share, "item_followers")
        if not 0 < reach < 1 or not share >= 0:
            raise UsageError("items.pairs", reach=reach, share=share)
        check(histories, item_count, config.model_type)
        return cls._nearest(config, histories, followers(histories, item_count, reach))

    @classmethod
    def _nearest(cls, config: NeighboursConfig, histories: Sequence[History], after: csr_matrix | None) -> Neighbours:
        """Keep the nearest by cosine, or by the weights (N, N) of what comes after and a share of the cosine."""
        if not 0 < config.decay <= 1 or config.neighbours < 1:
            raise UsageError("items.reading", decay=config.decay, neighbours=config.neighbours)
        item_count = config.item_count
        check(histories, item_count, config.model_type)
        users = spread(histories, item_count)
        flipped = users.T.tocsr()
        counts = np.asarray(users.sum(0)).ravel()
        starts, items, cosines = [0], [], []
        for start in range(0, item_count, ROWS_AT_ONCE):
            both = np.asarray((flipped[start : start + ROWS_AT_ONCE] @ users).todense())  # (B, N)
            places = np.arange(start, start + len(both))
            near = both / (np.sqrt(counts[places, None] * counts) + SHRINK)
            if after is not None:
                near = config.share * near + after[start : start + ROWS_AT_ONCE].toarray()
            near[np.arange(len(both)), places] = 0
            for row in near:
                found = np.flatnonzero(row)
                best = found[np.argsort(-row[found], kind="stable")[: config.neighbours]]
                starts.append(starts[-1] + len(best))
                items.append(best.astype(np.int32))
                cosines.append(row[best].astype(np.float32))
        return cls(config, np.array(starts), np.concatenate(items), np.concatenate(cosines))

    def reading(self, decay: float) -> Neighbours:
        """Give the same neighbours, of histories that fade otherwise."""
        return Neighbours(replace(self.config, decay=decay), self.starts, self.items, self.cosines)

    def scores(self, histories: Sequence[History], unseen: bool = True) -> np.ndarray:
        """Give every item's score after each history: (B, N) float64; with unseen, the history's own items at -inf."""
        from scipy.sparse import csr_matrix

        count = self.config.item_count
        check(histories, count)
        near = csr_matrix((self.cosines.astype(np.float64), self.items, self.starts), shape=(count, count))
        found = np.asarray((spread(histories, count, self.config.decay) @ near).todense())
        return rule_out(found, histories) if unseen else found

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"starts": self.starts, "items": self.items, "cosines": self.cosines}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Neighbours:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(NeighboursConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in ("starts", "items", "cosines")))


class Ease:
    """Weights between items that rebuild every history from itself, no item from itself: least squares in closed form.

    With P = (X'X + lambda I)^-1 the weights are I - P / diagonal of P, column by column. They are kept as the rows of Q, where
    lambda P = I - Q'Q, at most as many as there are users or items, which is far smaller than the square of the items.

    factors   (E, N) float32    Q
    diagonal  (N,) float64      of lambda P
    """

    arrays = True

    def __init__(self, config: EaseConfig, factors: np.ndarray, diagonal: np.ndarray) -> None:
        self.config = config
        self.factors, self.diagonal = factors, diagonal

    @classmethod
    def fit(cls, histories: Sequence[History], item_count: int, strength: float = 100.0, last: int = 10) -> Ease:
        """Solve for the weights; all of each history is learnt from, whatever `last` says.

        Raises UsageError for a strength that is not above zero, DataError naming the row with an item that is none.
        """
        from scipy.linalg import cholesky, solve_triangular

        if not strength > 0:
            raise UsageError("fit.strength", value=strength)
        check(histories, item_count, "ease")
        users = spread(histories, item_count)
        known = np.flatnonzero(np.asarray(users.sum(0)).ravel())  # items that nobody has rebuild nothing
        users = users[:, known]
        damp = strength
        if users.shape[0] > users.shape[1]:
            # Rows with the same products, as few as items: X'X + lambda/2 I = C'C, and half of lambda is left.
            damp = strength / 2
            rows = cholesky((users.T @ users).toarray() + damp * np.eye(len(known)))
        else:
            rows = users.toarray()
        # Woodbury: (X'X + d I)^-1 = (I - X' (X X' + d I)^-1 X) / d = (I - Q'Q) / d with Q = L^-1 X, L L' = X X' + d I.
        lower = cholesky(rows @ rows.T + damp * np.eye(len(rows)), lower=True)
        factors = np.zeros((len(rows), item_count), np.float32)
        factors[:, known] = solve_triangular(lower, rows, lower=True)
        diagonal = 1 - (factors.astype(np.float64) ** 2).sum(0)
        return cls(EaseConfig(item_count, float(strength), last), factors, diagonal)

    def reading(self, last: int) -> Ease:
        """Give the same weights, of which as many of the last items are read."""
        return Ease(replace(self.config, last=last), self.factors, self.diagonal)

    def scores(self, histories: Sequence[History], unseen: bool = True) -> np.ndarray:
        """Give every item's score after each history: (B, N) float64; with unseen, the history's own items at -inf."""
        count = self.config.item_count
        check(histories, count)
        found = np.zeros((len(histories), count))
        for start in range(0, len(histories), ROWS_AT_ONCE):
            chosen = spread(histories[start : start + ROWS_AT_ONCE], count, last=self.config.last)
            rebuilt = (chosen @ self.factors.T.astype(np.float64)) @ self.factors  # (B, N)
            given = chosen.toarray()
            found[start : start + len(given)] = given - (given - rebuilt) / self.diagonal
        return rule_out(found, histories) if unseen else found

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"factors": self.factors, "diagonal": self.diagonal}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Ease:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(EaseConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in ("factors", "diagonal")))
