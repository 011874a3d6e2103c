"""The chain of a conditional random field in NumPy: log Z, the marginals, the best sequence of many sentences side by side.

p(tags | scores) = exp(sum over t of emissions[t, tag t] + transitions[tag t-1, tag t]) / Z
The scores are counted features' (`crf`) or a network's, whose loss torch computes from the same chain (`layers/crf.py`).
Source: Lafferty, McCallum & Pereira 2001; Viterbi 1967. Leaves out: chains of higher order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOWEST = -600.0  # nats below a token's best emission; keeps the scaled passes above zero, no fitted weight comes near


@dataclass(frozen=True)
class Packing:
    """Sentences side by side, a step of all of them after the other, the longest first.

    order   (N,) int   which token, counted through all sentences, stands at each place
    sizes   (T,) int   sentences that have a token at each step
    before  (N,) int   the place of the token before; its own where there is none
    """

    order: np.ndarray
    sizes: np.ndarray
    before: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Where each step begins, and the end."""
        return np.concatenate([[0], np.cumsum(self.sizes)])


def pack(lengths: np.ndarray) -> Packing:
    """Lay out sentences of given lengths; those of no token take no place."""
    rank = np.argsort(-lengths, kind="stable")
    first = (np.cumsum(lengths) - lengths)[rank]
    sizes = np.array([np.count_nonzero(lengths > step) for step in range(int(lengths.max(initial=0)))], np.int64)
    order = np.concatenate([np.zeros(0, np.int64), *(first[:size] + step for step, size in enumerate(sizes))])
    shift = np.repeat(np.concatenate([[0], sizes])[: len(sizes)], sizes)
    return Packing(order, sizes, np.arange(len(order)) - shift)


def run_chain(emissions: np.ndarray, transitions: np.ndarray, start: np.ndarray, packing: Packing) -> tuple[float, np.ndarray, np.ndarray]:
    """Run forwards and backwards over packed sentences.

    emissions    (N, K) float    scores of each tag of each token, packed
    transitions  (K, K) float    from row to column; -inf: never
    start        (K,) float
    return       the sum of log Z over the sentences, p(tag of a token) as (N, K), and the expected counts of the moves as (K, K)
    """
    peak = emissions.max(1, keepdims=True, initial=-np.inf)
    lift = np.exp(np.maximum(emissions - peak, LOWEST))  # (N, K)
    moves, edges, sizes = np.exp(transitions), packing.edges, packing.sizes
    ahead, norms = np.empty_like(lift), np.empty(len(lift))
    for step, size in enumerate(sizes):
        here = slice(edges[step], edges[step + 1])
        reached = ahead[edges[step - 1] : edges[step - 1] + size] @ moves if step else np.exp(start)
        joint = lift[here] * reached
        norms[here] = joint.sum(1)
        ahead[here] = joint / norms[here, None]
    behind, carried = np.ones_like(lift), lift / norms[:, None]
    for step in range(len(sizes) - 2, -1, -1):
        after = slice(edges[step + 1], edges[step + 2])
        carried[after] *= behind[after]
        behind[edges[step] : edges[step] + sizes[step + 1]] = carried[after] @ moves.T
    first = sizes[0] if len(sizes) else 0
    pairs = moves * (ahead[packing.before[first:]].T @ carried[first:])
    return float(np.log(norms).sum() + peak.sum()), ahead * behind, pairs


def find_best(emissions: np.ndarray, transitions: np.ndarray, start: np.ndarray, packing: Packing) -> np.ndarray:
    """Give the most probable tags of packed sentences, (N,) int64: Viterbi 1967; the first of equals."""
    edges, sizes = packing.edges, packing.sizes
    pointers, best = np.zeros(emissions.shape, np.int64), np.array(emissions)
    for step, size in enumerate(sizes):
        here = slice(edges[step], edges[step + 1])
        if step:
            ways = best[edges[step - 1] : edges[step - 1] + size, :, None] + transitions  # (B, K, K)
            pointers[here] = ways.argmax(1)
            best[here] += ways.max(1)
        else:
            best[here] += start
    found = best.argmax(1)
    for step in range(len(sizes) - 2, -1, -1):
        after = np.arange(edges[step + 1], edges[step + 2])
        found[packing.before[after]] = pointers[after, found[after]]
    return found


def follow(emissions: np.ndarray, transitions: np.ndarray, start: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the best tag of every token and p(tag of a token), through all sentences.

    emissions    (N, K) float    scores of each tag of each token, sentence after sentence
    transitions  (K, K) float    from row to column; -inf: never
    start        (K,) float
    lengths      (B,) int        tokens of each sentence
    return       (N,) int64 and (N, K) float64
    """
    packing = pack(lengths)
    packed = np.asarray(emissions, np.float64)[packing.order]
    best, marginals = np.zeros(len(packed), np.int64), np.zeros(packed.shape)
    best[packing.order] = find_best(packed, transitions, start, packing)
    marginals[packing.order] = run_chain(packed, transitions, start, packing)[1]
    return best, marginals
