"""Gradient-boosted trees for tables: numbers and categories, what is missing goes to the side that training found better.

scikit-learn's histogram boosting grows the trees, a few at a time, for as long as held rows gain; what is stored is plain arrays, and
reading is NumPy. Each answer comes with exact reasons: every column's Shapley value in the trees' score (shapley.py). Several forests, each
grown without a part of the rows, are one forest of smaller leaves: it errs less, and gives reasons that hang less on which rows were drawn.
Sources: Friedman 2001; Ke et al. 2017 (histograms); Breiman 1996 (averaging); Krogh & Vedelsby 1995 (each forest without a part, which
judges it). Leaves out: monotone constraints, sampling of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.models.bag import normalise
from zhixing.models.shapley import Paths, shapley
from zhixing.models.tables import FEW, REMARKS, Columns, Row, check_labels, judge

RATE = 0.06  # share of each tree; with early stopping, smaller gains little and costs as many more trees
LEAVES = 31
SMALLEST = 20  # rows in a leaf
RIDGE = 1.0  # L2 on a leaf's value
MOST = 500  # rounds of boosting, a tree a label each
ROUNDS = 10  # grown between two looks at the held rows
PATIENCE = 5  # looks without a gain, then growing stops
HELD_OUT = 10  # one row in so many decides when to stop where there are no held rows
FEWEST = 200  # rows, below which none is held out: FEW_ROUNDS of boosting then
FEW_ROUNDS = 50
ROWS_AT_ONCE = 2048  # bounds the memory of reading
PARTS = 3  # of the rows, one of which each forest of several has not seen
NONE = -1


@dataclass(frozen=True)
class TreesConfig:
    """The columns, how many labels there are, and how the trees were grown: rounds are those of all forests together."""

    columns: dict[str, Any]
    label_count: int
    rounds: int
    rate: float = RATE
    leaves: int = LEAVES
    forests: int = 1
    model_type: str = "trees"


@dataclass(frozen=True)
class Forest:
    """All nodes of all trees, one after the other; children are places in these arrays.

    roots         (L,) int64       where each tree begins; tree i speaks for output i modulo the outputs
    feature       (N,) int32       the column that is asked, NONE for a leaf
    threshold     (N,) float64     at most this goes left
    left, right   (N,) int32
    missing_left  (N,) bool        where what is missing goes
    value         (N,) float64     of a leaf: its share of the score
    cover         (N,) float64     training rows that came through
    category      (N,) int32       row of `bitsets` that says which categories go left, NONE for a threshold
    bitsets       (C, 8) uint32    bit i of word w: category 32 w + i
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    cover: np.ndarray
    category: np.ndarray
    bitsets: np.ndarray

    def decide(self, table: np.ndarray) -> np.ndarray:
        """Say at every node that asks whether a row goes left: (B, C) float to (B, N) bool; False at leaves."""
        asked = np.maximum(self.feature, 0)
        values = table[:, asked]  # (B, N)
        missing = np.isnan(values)
        goes = values <= self.threshold
        sets = np.flatnonzero(self.category != NONE)
        codes = np.where(missing[:, sets], 0, values[:, sets]).astype(np.uint32)
        words = self.bitsets[self.category[sets], np.minimum(codes >> 5, 7)]
        goes[:, sets] = (words >> (codes & np.uint32(31))) & np.uint32(1)
        return np.where(missing, self.missing_left, goes) & (self.feature != NONE)

    def sum_values(self, table: np.ndarray, outputs: int) -> np.ndarray:
        """Add up the leaves that rows fall into: (B, C) float to (B, outputs) float64."""
        found = np.zeros((len(table), outputs))
        for start in range(0, len(table), ROWS_AT_ONCE):
            rows = table[start : start + ROWS_AT_ONCE]
            goes = self.decide(rows)
            places = np.tile(self.roots, (len(rows), 1))  # (B, L)
            each = np.arange(len(rows))[:, None]
            while (self.feature[places] != NONE).any():
                down = np.where(goes[each, places], self.left[places], self.right[places])
                places = np.where(self.feature[places] == NONE, places, down)
            values = self.value[places]
            for output in range(outputs):
                # One by one, in the order of growing, as scikit-learn adds them.
                for tree in range(output, len(self.roots), outputs):
                    found[start : start + len(rows), output] += values[:, tree]
        return found


def flatten(predictors: Sequence[Sequence[Any]]) -> Forest:
    """Put scikit-learn's trees, rounds of one an output, into arrays."""
    trees = [tree for each in predictors for tree in each]
    counts = np.array([len(tree.nodes) for tree in trees], np.int64)
    sets = np.array([len(tree.raw_left_cat_bitsets) for tree in trees], np.int64)
    roots = np.cumsum(counts) - counts
    shift, above = np.repeat(roots, counts), np.repeat(np.cumsum(sets) - sets, counts)
    nodes = np.concatenate([tree.nodes for tree in trees])
    leaf, categorical = nodes["is_leaf"].astype(bool), nodes["is_categorical"].astype(bool)
    return Forest(
        roots,
        np.where(leaf, NONE, nodes["feature_idx"]).astype(np.int32),
        np.where(leaf | categorical, 0.0, nodes["num_threshold"]),
        np.where(leaf, 0, nodes["left"] + shift).astype(np.int32),
        np.where(leaf, 0, nodes["right"] + shift).astype(np.int32),
        nodes["missing_go_to_left"].astype(bool) & ~leaf,
        np.where(leaf, nodes["value"], 0.0),
        nodes["count"].astype(np.float64),
        np.where(categorical & ~leaf, nodes["bitset_idx"] + above, NONE).astype(np.int32),
        np.concatenate([np.zeros((0, 8), np.uint32), *(tree.raw_left_cat_bitsets for tree in trees)]),
    )


def join(forests: Sequence[Forest]) -> Forest:
    """Make one forest whose sum is the mean of several with equally many outputs: the trees of all, their leaves divided."""
    sizes = np.array([len(each.feature) for each in forests])
    sets = np.array([len(each.bitsets) for each in forests])
    shifts, above = np.cumsum(sizes) - sizes, np.cumsum(sets) - sets
    moved = []
    for each, shift, start in zip(forests, shifts, above, strict=True):
        asks = each.feature != NONE
        moved.append(
            Forest(
                each.roots + shift,
                each.feature,
                each.threshold,
                np.where(asks, each.left + shift, 0).astype(np.int32),
                np.where(asks, each.right + shift, 0).astype(np.int32),
                each.missing_left,
                each.value / len(forests),
                each.cover,
                np.where(each.category != NONE, each.category + start, NONE).astype(np.int32),
                each.bitsets,
            )
        )
    return Forest(*(np.concatenate([getattr(each, name) for each in moved]) for name in Forest.__dataclass_fields__))


def deal_rows(labels: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Deal the rows of each label out in turn, in a random order: (B,) int, NONE for a label that has fewer rows than there are parts."""
    part = np.full(len(labels), NONE)
    draw = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = draw.permutation(np.flatnonzero(labels == label))
        if len(own) >= parts:
            part[own] = np.arange(len(own)) % parts
    return part


class Trees:
    """Boosted trees: p(label | row) = softmax of baseline + the sum over the trees' leaves.

    forest    all trees; with two labels one tree a round, which speaks for the second
    baseline  (outputs,) float64   the score before any tree
    """

    arrays = True

    def __init__(self, config: TreesConfig, forest: Forest, baseline: np.ndarray) -> None:
        self.config = config
        self.columns = Columns.from_dict(config.columns)
        self.forest = forest
        self.baseline = baseline
        self._paths: Paths | None = None

    @classmethod
    def fit(
        cls,
        rows: Sequence[Row],
        labels: np.ndarray,
        label_count: int,
        held: tuple[Sequence[Row], np.ndarray] | None = None,
        kinds: Mapping[str, str] | None = None,
        rate: float = RATE,
        leaves: int = LEAVES,
        rounds: int = 0,
    ) -> Trees:
        """Grow trees for as long as held rows gain.

        rows    B dicts of {column: str | number | None}
        labels  (B,) int    0 <= label < label_count
        held    rows and labels that say when to stop; None: one training row in HELD_OUT says it, then all rows are grown on
        kinds   "number" or "category" of columns whose values do not say it
        rounds  0: as many as are best

        Raises DataError or UsageError naming what is wrong.
        """
        labels = check_labels("trees", len(rows), labels, label_count)
        columns = Columns.learn(rows, kinds)
        table = columns.read(rows)
        if not rounds:
            if held is not None and len(held[0]):
                judged = columns.read(held[0]), check_labels("trees", len(held[0]), held[1], label_count)
                return cls._grow(columns, table, labels, label_count, judged, rate, leaves, MOST)
            if len(rows) < FEWEST:
                rounds = FEW_ROUNDS
            else:
                out = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
                seen = cls._grow(columns, table[~out], labels[~out], label_count, (table[out], labels[out]), rate, leaves, MOST)
                rounds = seen.config.rounds
        return cls._grow(columns, table, labels, label_count, None, rate, leaves, rounds)

    @classmethod
    def average(
        cls, rows: Sequence[Row], labels: np.ndarray, label_count: int, forests: int, rate: float = RATE, leaves: int = LEAVES
    ) -> tuple[Trees, np.ndarray]:
        """Grow several forests, each without one row in PARTS, which says when to stop; the whole is the mean of their scores.

        rows     B dicts of {column: str | number | None}, at least FEWEST
        forests  a multiple of PARTS, so that each row is out of forests / PARTS of them
        return   the whole, and (B, labels) float64, each row's mean log p by the forests that have not seen it, not normalised

        Rows of a label that has fewer than PARTS of them are in all forests; what is given of those is NaN.
        """
        labels = check_labels("trees", len(rows), labels, label_count)
        columns = Columns.learn(rows)
        table = columns.read(rows)
        grown, apart = [], np.zeros((len(rows), label_count))
        for number in range(forests):
            out = deal_rows(labels, PARTS, number // PARTS) == number % PARTS
            each = cls._grow(columns, table[~out], labels[~out], label_count, (table[out], labels[out]), rate, leaves, MOST)
            grown.append(each)
            apart[out] += np.log(np.maximum(each._read(table[out]), FEW))
        apart[deal_rows(labels, PARTS, 0) == NONE] = np.nan
        config = TreesConfig(columns.to_dict(), label_count, sum(each.config.rounds for each in grown), rate, leaves, forests)
        whole = cls(config, join([each.forest for each in grown]), np.mean([each.baseline for each in grown], 0))
        return whole, apart * PARTS / forests

    @classmethod
    def _grow(
        cls,
        columns: Columns,
        table: np.ndarray,
        labels: np.ndarray,
        label_count: int,
        held: tuple[np.ndarray, np.ndarray] | None,
        rate: float,
        leaves: int,
        rounds: int,
    ) -> Trees:
        seen = np.unique(labels)

        def make(grower: Any, count: int) -> Trees:
            config = TreesConfig(columns.to_dict(), label_count, count, rate, leaves)
            return cls(config, flatten(grower._predictors[:count]), spread_baseline(grower, seen, label_count))

        if len(seen) == 1:
            alone = np.full(label_count, -np.inf)
            alone[seen] = 0
            empty = Forest(*(np.zeros(0, kind) for kind in KINDS), np.zeros((0, 8), np.uint32))
            return cls(TreesConfig(columns.to_dict(), label_count, 0, rate, leaves), empty, alone)
        grower = start_growing(columns, rate, leaves)
        table = np.where(np.isnan(table).all(0), 0.0, table)  # bins cannot be made of no number; no tree asks for a column that is constant
        if held is None:
            return make(grower.set_params(max_iter=rounds).fit(table, labels), rounds)
        best, lowest, waited = 0, np.inf, 0
        scores: np.ndarray | None = None
        for count in range(ROUNDS, rounds + 1, ROUNDS):
            grower.set_params(max_iter=count).fit(table, labels)
            new = cls(TreesConfig(columns.to_dict(), label_count, ROUNDS), flatten(grower._predictors[-ROUNDS:]), np.zeros(0))
            outputs = len(grower._predictors[0])
            if scores is None:
                scores = np.tile(grower._baseline_prediction.reshape(1, -1), (len(held[0]), 1))
            scores = scores + new.forest.sum_values(held[0], outputs)
            nats = judge(give_probabilities(scores, seen, label_count), held[1])
            if nats < lowest:
                best, lowest, waited = count, nats, 0
            elif (waited := waited + 1) >= PATIENCE:
                break
        return make(grower, best or ROUNDS)

    def scores(self, table: np.ndarray) -> np.ndarray:
        """Give the score of each output: (B, C) float to (B, outputs) float64."""
        return self._known_baseline() + self.forest.sum_values(table, len(self._known_baseline()))

    def _known_baseline(self) -> np.ndarray:
        seen = np.flatnonzero(np.isfinite(self.baseline))
        return self.baseline[seen[1:]] if len(seen) == 2 else self.baseline[seen]

    def probabilities(self, rows: Sequence[Row]) -> np.ndarray:
        """Give p(label | row): (B, labels) float64, each row sums to 1; a label that training has not seen gets 0."""
        return self._read(self.columns.read(rows))

    def _read(self, table: np.ndarray) -> np.ndarray:
        return give_probabilities(self.scores(table), np.flatnonzero(np.isfinite(self.baseline)), self.config.label_count)

    def contributions(self, rows: Sequence[Row]) -> np.ndarray:
        """Give each column's share of each label's score: its Shapley value, what rows that lack it would do being known from training.

        return  (B, C, labels) float64, columns as in `columns`; a row's sum is the label's score less the score expected of any row

        With two labels the score is the log-odds, and the first label's shares are the second's with the sign turned.
        Source: Lundberg et al. 2018, arXiv:1802.03888 (path-dependent TreeSHAP); exact, see shapley.py.
        """
        table = self.columns.read(rows)
        seen = np.flatnonzero(np.isfinite(self.baseline))
        found = np.zeros((len(table), len(self.columns.names), self.config.label_count))
        if not len(self.forest.roots):
            return found
        if self._paths is None:
            self._paths = Paths.trace(self.forest)
        outputs = len(self._known_baseline())
        shares = shapley(self._paths, self.forest.decide, table, outputs)  # (B, C, outputs)
        if outputs == 1:
            found[:, :, seen[0]], found[:, :, seen[1]] = -shares[:, :, 0], shares[:, :, 0]
        else:
            found[:, :, seen] = shares
        return found

    def reasons(self, rows: Sequence[Row], label: int, count: int = 4) -> list[list[tuple[str, float]]]:
        """Give the columns that speak most for a label in each row, the strongest first, equal ones in the order of columns.

        return  for each row at most `count` pairs of a column and its share of the label's score, all above zero
        """
        shares = self.contributions(rows)[:, :, label]  # (B, C)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :count]
        return [[(self.columns.names[c], float(row[c])) for c in places if row[c] > 0] for row, places in zip(shares, order, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was grown, to be saved."""
        return {**vars(self.forest), "baseline": self.baseline}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Trees:
        """Build the model again from its configuration and its saved arrays."""
        forest = Forest(*(np.asarray(tensors[name]) for name in Forest.__dataclass_fields__))
        return cls(read(TreesConfig, dict(config), REMARKS), forest, np.asarray(tensors["baseline"]))


KINDS = (np.int64, np.int32, np.float64, np.int32, np.int32, bool, np.float64, np.float64, np.int32)  # of a forest's arrays before bitsets


def start_growing(columns: Columns, rate: float, leaves: int) -> Any:
    """Make scikit-learn's grower; columns of categories come first there too, so that columns keep their places."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=rate,
        max_leaf_nodes=leaves,
        min_samples_leaf=SMALLEST,
        l2_regularization=RIDGE,
        early_stopping=False,
        warm_start=True,
        categorical_features=list(range(columns.categorical)) or None,
        random_state=0,
    )


def spread_baseline(grower: Any, seen: np.ndarray, label_count: int) -> np.ndarray:
    """Give the score before any tree, (labels,) float64: -inf for labels not seen, 0 for the first of two."""
    found = np.full(label_count, -np.inf)
    given = np.ravel(grower._baseline_prediction)
    found[seen] = given if len(given) == len(seen) else [0.0, *given]
    return found


def give_probabilities(scores: np.ndarray, seen: np.ndarray, label_count: int) -> np.ndarray:
    """Turn scores of the outputs into probabilities of all labels: (B, outputs) to (B, labels) float64."""
    if scores.shape[1] < len(seen):
        scores = np.concatenate([np.zeros((len(scores), 1)), scores], 1)
    found = np.zeros((len(scores), label_count))
    found[:, seen] = normalise(scores) if len(scores) else 0
    return found
