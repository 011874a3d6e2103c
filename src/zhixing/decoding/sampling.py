"""How the next token is chosen from a distribution.

The filters apply in one order, that of Hugging Face's `generate`: forbidden ids, repetition penalty, temperature, top-k, top-p, min-p;
then the token is drawn from what is left. Temperature 0 takes the most probable token after the repetition penalty.
Leaves out: beam search and constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zhixing.decoding.asking import Sampling

# Padding and the three chat control tokens: no text is made of them. The end token, 1, may be drawn and ends a row.
CONTROL = (0, 2, 3, 4)
HEAD = 256  # tokens among which top-p looks for its mass before it sorts all of them


def penalise(log_probs: Tensor, seen: Tensor, penalties: Tensor) -> Tensor:
    """Multiply the log-probability of every token that a text holds already by the text's penalty.

    log_probs  (B, V) float
    seen       (B, V) bool     the tokens of the text so far, prompt included
    penalties  (B,) float
    return     (B, V) float, not normalised

    Source: Keskar et al. 2019, section 4.1, arXiv:1909.05858. Differs: it is applied to log-probabilities, which are never positive,
    so that the answer does not depend on a constant added to the logits.
    """
    return torch.where(seen, log_probs * penalties[:, None], log_probs)


def keep_most(scores: Tensor, counts: Tensor) -> Tensor:
    """Bar all but the most probable tokens of each row, as many as its count, and those that equal the last of them.

    scores  (B, V) float
    counts  (B,)           >= 1
    return  (B, V) float   -inf: barred
    """
    counts = counts.long().clamp(max=scores.shape[1])
    most = scores.topk(int(counts.max())).values.gather(1, counts[:, None] - 1)  # (B, 1)
    return scores.masked_fill(scores < most, -torch.inf)


def keep_mass(scores: Tensor, masses: Tensor) -> Tensor:
    """Bar all but the smallest set of the most probable tokens of each row that reaches its mass; of equal tokens the first come first.

    scores  (B, V) float
    masses  (B,) float     in (0, 1]
    return  (B, V) float   -inf: barred
    """
    p = scores.softmax(-1)  # (B, V)
    ordered = p.topk(min(HEAD, p.shape[1])).values  # (B, N)
    total = ordered.cumsum(-1)
    if bool((total[:, -1] <= masses).any()):
        ordered = p.sort(descending=True).values  # (B, V)
        total = ordered.cumsum(-1)
    before = total - ordered
    # The first token has nothing before it, so at least one is kept.
    counts = (before < masses[:, None]).sum(-1, keepdim=True)  # (B, 1)
    last = ordered.gather(1, counts - 1)  # (B, 1)
    equal = p == last
    room = counts - (p > last).sum(-1, keepdim=True)
    return scores.masked_fill(~((p > last) | (equal & (equal.cumsum(-1) <= room))), -torch.inf)


def keep_near(scores: Tensor, shares: Tensor) -> Tensor:
    """Bar the tokens that are less probable than the row's share of its most probable one.

    scores  (B, V) float
    shares  (B,) float     in (0, 1]
    return  (B, V) float   -inf: barred
    """
    return scores.masked_fill(scores < scores.amax(-1, keepdim=True) + shares.log()[:, None], -torch.inf)


def narrow_rows(log_probs: Tensor, samplings: Sequence[Sampling], seen: Tensor | None = None) -> Tensor:
    """Apply every filter but the draw itself, to every row its own.

    log_probs  (B, V) float     the model's log p(next token)
    seen       (B, V) bool      the tokens of the text so far, prompt included; None where no row has a repetition penalty
    return     (B, V) float64   log-probabilities, normalised; -inf: cannot be drawn
    """
    scores = log_probs.to(torch.float64, copy=True)
    V = scores.shape[1]
    for forbidden in {each.forbidden for each in samplings}:
        rows = [row for row, each in enumerate(samplings) if each.forbidden == forbidden]
        barred = [each for each in (CONTROL if forbidden is None else forbidden) if each < V]
        if len(rows) == len(samplings):
            scores[:, barred] = -torch.inf
        elif barred:
            scores[torch.tensor(rows)[:, None], torch.tensor(barred)] = -torch.inf
    if seen is not None:
        scores = penalise(scores, seen, _column([each.repetition_penalty for each in samplings]))
    best = scores.argmax(-1, keepdim=True)  # (B, 1)
    # Measured from the best, which stays 0 however small the temperature.
    scores = (scores - scores.gather(1, best)) / _column([each.temperature or 1.0 for each in samplings])[:, None]
    scores = _filter(scores, [min(each.top_k or 0, V) for each in samplings], 0, keep_most)
    scores = _filter(scores, [1.0 if each.top_p is None else each.top_p for each in samplings], 1.0, keep_mass)
    scores = _filter(scores, [each.min_p or 0.0 for each in samplings], 0.0, keep_near)
    cold = [row for row, each in enumerate(samplings) if each.temperature == 0]
    if cold:
        scores[cold] = torch.full((len(cold), V), -torch.inf, dtype=torch.float64).scatter(1, best[cold], 0.0)
    return scores.log_softmax(-1)


def choose_rows(
    log_probs: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator], seen: Tensor | None = None
) -> list[int]:
    """Choose every row's next token; exactly one number is drawn from a row's generator, and none at temperature 0.

    log_probs  (B, V) float    the model's log p(next token)
    seen       (B, V) bool     the tokens of the text so far, prompt included; None where no row has a repetition penalty
    return     list of int     a token id a row; the same as the row alone would get
    """
    narrowed = narrow_rows(log_probs, samplings, seen)
    mass = narrowed.exp().cumsum(-1)  # (B, V)
    points = torch.zeros(len(samplings), 1, dtype=torch.float64)
    for row, (sampling, generator) in enumerate(zip(samplings, generators, strict=True)):
        if sampling.temperature:
            points[row].uniform_(generator=generator)
    # right=True: a token without mass is never met, for its cumulative mass equals its predecessor's.
    tokens = torch.searchsorted(mass, points * mass[:, -1:], right=True).squeeze(1).tolist()
    for row, token in enumerate(tokens):
        if token == mass.shape[1]:
            # Rounding put the point at the very end: the last token that has any mass.
            tokens[row] = int(narrowed[row].isfinite().nonzero()[-1])
    return tokens


def narrow(log_probs: Tensor, sampling: Sampling, history: Tensor) -> Tensor:
    """Apply every filter but the draw itself, to one row.

    log_probs  (V,) float     the model's log p(next token)
    history    (N,) int       the text so far, prompt included
    return     (V,) float64   log-probabilities, normalised; -inf: cannot be drawn
    """
    return narrow_rows(log_probs.cpu()[None], [sampling], _seen(history, len(log_probs)))[0]


def choose(log_probs: Tensor, sampling: Sampling, history: Tensor, generator: torch.Generator) -> int:
    """Choose one row's next token.

    log_probs  (V,) float    the model's log p(next token)
    history    (N,) int      the text so far, prompt included
    return     int           a token id
    """
    return choose_rows(log_probs.cpu()[None], [sampling], [generator], _seen(history, len(log_probs)))[0]


def _seen(history: Tensor, vocabulary: int) -> Tensor:
    seen = torch.zeros(1, vocabulary, dtype=torch.bool)
    seen[0, history.cpu()] = True
    return seen


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _filter(scores: Tensor, numbers: Sequence[float], nothing: float, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a filter to those rows whose number is not the one that filters nothing."""
    rows = [row for row, number in enumerate(numbers) if number != nothing]
    if len(rows) == len(numbers):
        return apply(scores, _column(numbers))
    if rows:
        scores[rows] = apply(scores[rows], _column([numbers[row] for row in rows]))
    return scores
