"""Exact Shapley values of sums of trees: what each column adds to one answer, fairly shared.

A tree is the sum over its leaves of value * product over the columns on the way of (1 or 0: does the row's value lead there), and where a
column is taken as unknown, of the share of training rows that go that way. For one leaf with columns 1..n, a_i whether the row fits and z_i
that share, the Shapley value of column i is, since k! (n-1-k)! / n! is the integral of t^k (1-t)^(n-1-k) over [0, 1],
    value * (a_i - z_i) * integral over t from 0 to 1 of product over j != i of (a_j t + z_j (1 - t)),
a polynomial of degree n - 1, which Gauss-Legendre integrates exactly with n / 2 points.
Source: the values are those of Lundberg et al. 2018, arXiv:1802.03888 (path-dependent TreeSHAP). Differs: leaf by leaf, by integration.
Leaves out: interactions of two columns; a background data set in place of training shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NONE = -1
LEAVES_AT_ONCE = 1024  # of about as many columns, so that few leaves pay for the longest way


@dataclass(frozen=True)
class Paths:
    """The ways to all leaves with at least one question, those that ask few columns first, and on each the columns that are asked.

    value    (L,) float64     of each leaf
    tree     (L,) int64       which tree the leaf is in
    column   (L, D) int64     the columns asked on the way, NONE after the last
    share    (L, D) float64   training rows that go on, of those that ask, over all questions to the column; 1 after the last
    node     (N,) int64       every question of every way
    turn     (N,) bool        whether it went left
    owner    (N,) int64       the place in `column` that it belongs to, counted through leaves
    """

    value: np.ndarray
    tree: np.ndarray
    column: np.ndarray
    share: np.ndarray
    node: np.ndarray
    turn: np.ndarray
    owner: np.ndarray

    @classmethod
    def trace(cls, forest: Any) -> Paths:
        """Follow every way of a forest (trees.py)."""
        values, trees, ways = [], [], []
        for tree, root in enumerate(forest.roots):
            open_ways: list[tuple[int, tuple[tuple[int, bool], ...]]] = [(int(root), ())]
            while open_ways:
                node, way = open_ways.pop()
                if forest.feature[node] != NONE:
                    open_ways += [(int(forest.right[node]), (*way, (node, False))), (int(forest.left[node]), (*way, (node, True)))]
                elif way:
                    values.append(forest.value[node])
                    trees.append(tree)
                    ways.append((way, node))
        columns = [list(dict.fromkeys(int(forest.feature[node]) for node, _ in way)) for way, _ in ways]
        order = sorted(range(len(ways)), key=lambda place: len(columns[place]))
        values, trees, ways, columns = ([each[place] for place in order] for each in (values, trees, ways, columns))
        deepest = max((len(each) for each in columns), default=0)
        column, share = np.full((len(ways), deepest), NONE, np.int64), np.ones((len(ways), deepest))
        nodes, turns, owners = [], [], []
        for leaf, ((way, end), asked) in enumerate(zip(ways, columns, strict=True)):
            column[leaf, : len(asked)] = asked
            after = [node for node, _ in way[1:]] + [end]
            for (node, left), following in zip(way, after, strict=True):
                place = asked.index(int(forest.feature[node]))
                share[leaf, place] *= forest.cover[following] / forest.cover[node]
                nodes.append(node)
                turns.append(left)
                owners.append(leaf * deepest + place)
        return cls(
            np.array(values, float), np.array(trees, np.int64), column, share,
            np.array(nodes, np.int64), np.array(turns, bool), np.array(owners, np.int64),
        )  # fmt: skip


def shapley(paths: Paths, decide: Callable[[np.ndarray], np.ndarray], table: np.ndarray, outputs: int) -> np.ndarray:
    """Give each column's Shapley value in each output's score.

    decide  (B, C) float to (B, N) bool: at which nodes a row goes left
    table   (B, C) float
    return  (B, C, outputs) float64
    """
    found = np.zeros((*table.shape, outputs))
    leaves, deepest = paths.column.shape
    if not leaves:
        return found
    target = np.where(paths.column == NONE, 0, paths.column) * outputs + (paths.tree % outputs)[:, None]  # (L, D)
    parts = []
    for start in range(0, leaves, LEAVES_AT_ONCE):
        rows = slice(start, start + LEAVES_AT_ONCE)
        longest = int((paths.column[rows] != NONE).sum(1).max())
        points, weights = np.polynomial.legendre.leggauss(longest // 2 + 1)
        parts.append((rows, longest, (points + 1) / 2, weights / 2))
    for row, values in enumerate(table):
        off = decide(values[None])[0][paths.node] != paths.turn
        fits = (np.bincount(paths.owner, off, leaves * deepest) == 0).reshape(leaves, deepest)  # (L, D)
        for part, longest, points, weights in parts:
            a, z = fits[part, :longest].astype(float), paths.share[part, :longest]
            factors = a[:, :, None] * points + z[:, :, None] * (1 - points)  # (L, D, N); above zero, since t lies inside
            whole = factors.prod(1)[:, None] / factors
            shares = paths.value[part, None] * (a - z) * (whole @ weights)  # (L, D)
            found[row] += np.bincount(target[part, :longest].ravel(), shares.ravel(), table.shape[1] * outputs).reshape(-1, outputs)
    return found
