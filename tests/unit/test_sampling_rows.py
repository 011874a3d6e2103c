"""Choosing for many rows at once: every row gets the token, and the distribution to the last bit, that it gets alone.

The oracle is the plain way, one row and one filter at a time.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from zhixing.decoding import sampling as module
from zhixing.decoding.asking import Sampling
from zhixing.decoding.sampling import choose, choose_rows, narrow_rows


def plainly(log_probs: torch.Tensor, sampling: Sampling, seen: torch.Tensor) -> torch.Tensor:
    """Filter one row of log-probabilities by the documented order, with a whole stable sort for top-p."""
    scores = log_probs.double().clone()
    scores[[each for each in sampling.forbidden if each < len(scores)]] = -torch.inf
    if sampling.repetition_penalty != 1:
        scores[seen] = scores[seen] * sampling.repetition_penalty
    if sampling.temperature == 0:
        best = torch.full_like(scores, -torch.inf)
        best[scores.argmax()] = 0.0
        return best
    scores = (scores - scores.max()) / sampling.temperature
    if sampling.top_k and sampling.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True, stable=True)
        scores = scores.clone()
        scores[order[ordered.cumsum(-1) - ordered >= sampling.top_p]] = -torch.inf
    if sampling.min_p:
        scores = scores.masked_fill(scores < scores.max() + math.log(sampling.min_p), -torch.inf)
    return scores.log_softmax(-1)


def draw(narrowed: torch.Tensor, generator: torch.Generator) -> int:
    """Draw from one row: one number, and the first token whose cumulative mass lies above it."""
    mass = narrowed.exp().cumsum(-1)
    return int(torch.searchsorted(mass, torch.rand(1, dtype=torch.float64, generator=generator) * mass[-1], right=True))


SAMPLINGS = some.builds(
    Sampling,
    temperature=some.sampled_from([0.0, 0.7, 1.0, 1.9]),
    top_k=some.none() | some.integers(0, 40),
    top_p=some.none() | some.sampled_from([0.01, 0.3, 0.9, 0.95, 0.999, 1.0]),
    min_p=some.none() | some.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=some.sampled_from([1.0, 1.0, 1.3, 0.8]),
    forbidden=some.sampled_from([(0, 2, 3, 4), (), (1, 99999)]),
)


def distributions(rows: int, vocabulary: int, seed: int, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Make log-probabilities on a grid, coarse enough for many to be equal, and the tokens that each text has seen."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocabulary, generator=generator) * 3 / step).round() * step
    return logits.log_softmax(-1), torch.rand(rows, vocabulary, generator=generator) < 0.2


@given(samplings=some.lists(SAMPLINGS, min_size=1, max_size=6), vocabulary=some.sampled_from([6, 50, 700]), seed=some.integers(0, 99))
def test_rows_together_are_rows_alone_to_the_last_bit(samplings: list[Sampling], vocabulary: int, seed: int) -> None:
    log_probs, seen = distributions(len(samplings), vocabulary, seed, 0.5 if seed % 2 else 1e-4)
    together = narrow_rows(log_probs, samplings, seen)
    tokens = choose_rows(log_probs, samplings, [torch.Generator().manual_seed(seed + row) for row in range(len(samplings))], seen)
    for row, sampling in enumerate(samplings):
        alone = plainly(log_probs[row], sampling, seen[row])
        assert torch.equal(together[row], alone)
        history = seen[row].nonzero().squeeze(1)
        assert tokens[row] == choose(log_probs[row], sampling, history, torch.Generator().manual_seed(seed + row))
        if sampling.temperature:
            assert tokens[row] == draw(alone, torch.Generator().manual_seed(seed + row))


def test_a_mass_beyond_the_head_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the likeliest tokens do not reach the mass, all are sorted; a head that were believed would give another distribution."""
    log_probs, samplings = torch.zeros(2, 1000).log_softmax(-1), [Sampling(top_p=0.9, forbidden=()), Sampling(top_p=0.1, forbidden=())]
    kept = narrow_rows(log_probs, samplings).isfinite().sum(-1).tolist()
    assert kept[0] == int(plainly(log_probs[0], samplings[0], torch.zeros(1000, dtype=torch.bool)).isfinite().sum()) > module.HEAD
    assert kept[1] == int(plainly(log_probs[0], samplings[1], torch.zeros(1000, dtype=torch.bool)).isfinite().sum()) < module.HEAD


def test_a_row_draws_one_number_or_none() -> None:
    log_probs, _ = distributions(3, 20, 1, 1e-4)
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    choose_rows(log_probs, [Sampling(), Sampling(temperature=0), Sampling(top_k=1)], generators)
    drawn = [torch.Generator().manual_seed(row) for row in range(3)]
    torch.rand(1, dtype=torch.float64, generator=drawn[0])
    torch.rand(1, dtype=torch.float64, generator=drawn[2])
    for ours, wanted in zip(generators, drawn, strict=True):
        assert torch.equal(torch.rand(4, generator=ours), torch.rand(4, generator=wanted))
