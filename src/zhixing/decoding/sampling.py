"""How the next token is chosen from a distribution.

The filters apply in one order, that of Hugging Face's `generate`: forbidden ids, repetition penalty, temperature, top-k, top-p, min-p;
then the token is drawn from what is left. Temperature 0 takes the most probable token after the repetition penalty.
Leaves out: beam search and constraints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.core.errors import UsageError

# Padding and the three chat control tokens: no text is made of them. The end token, 1, may be drawn and ends a row.
CONTROL = (0, 2, 3, 4)
SEEDS = 1 << 63


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, and when to stop.

    temperature         float >= 0        0: the most probable token; 1: the model's own distribution
    top_k               int >= 0          keep so many of the most probable tokens; 0 or None: all
    top_p               float in (0, 1]   keep the smallest set of the most probable tokens that reaches this mass; 1 or None: all
    min_p               float in [0, 1]   keep tokens at least this probable, relative to the most probable; 0 or None: all
    repetition_penalty  float > 0         above 1, tokens already in the text become less probable; see `penalise`
    max_tokens          int >= 1          how many tokens to write at most
    stop                tuple of str      end before the first of these
    seed                int >= 0          the same seed, lane and prompt give the same text
    forbidden           tuple of int      ids that are never chosen
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_tokens: int = 200
    stop: tuple[str, ...] = ()
    seed: int = 0
    forbidden: tuple[int, ...] = CONTROL

    def __post_init__(self) -> None:
        """Check every value. Raises UsageError naming the first that is out of its range."""
        ranges = (
            ("temperature", math.isfinite(self.temperature) and self.temperature >= 0, "temperature >= 0"),
            ("top_k", self.top_k is None or self.top_k >= 0, "top_k >= 0"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "0 < top_p <= 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "0 <= min_p <= 1"),
            ("repetition_penalty", math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty > 0"),
            ("max_tokens", self.max_tokens >= 1, "max_tokens >= 1"),
            ("seed", 0 <= self.seed < SEEDS, "0 <= seed < 2^63"),
            ("stop", not isinstance(self.stop, str) and all(isinstance(each, str) and each for each in self.stop), "stop: ['text', ...]"),
        )
        for name, right, wanted in ranges:
            if not right:
                raise UsageError("sampling.range", name=name, value=repr(getattr(self, name)), wanted=wanted)
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "forbidden", tuple(self.forbidden))


def penalise(log_probs: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Multiply the log-probability of every token that the text holds already by the penalty.

    log_probs  (V,) float
    history    (N,) int    the text so far, prompt included
    return     (V,) float, not normalised

    Source: Keskar et al. 2019, section 4.1, arXiv:1909.05858. Differs: it is applied to log-probabilities, which are never positive,
    so that the answer does not depend on a constant added to the logits.
    """
    seen = history.unique()
    penalised = log_probs.clone()
    penalised[seen] = log_probs[seen] * penalty
    return penalised


def narrow(log_probs: Tensor, sampling: Sampling, history: Tensor) -> Tensor:
    """Apply every filter but the draw itself.

    log_probs  (V,) float     the model's log p(next token)
    history    (N,) int       the text so far, prompt included
    return     (V,) float64   log-probabilities, normalised; -inf: cannot be drawn
    """
    scores = log_probs.double()
    barred = [each for each in sampling.forbidden if each < len(scores)]
    if barred:
        scores = scores.clone()
        scores[barred] = -torch.inf
    if sampling.repetition_penalty != 1:
        scores = penalise(scores, history, sampling.repetition_penalty)
    if sampling.temperature == 0:
        best = torch.full_like(scores, -torch.inf)
        best[scores.argmax()] = 0.0
        return best
    scores = (scores - scores.max()) / sampling.temperature  # the best stays 0, however small the temperature
    if sampling.top_k and sampling.top_k < len(scores):
        kth = scores.topk(sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = scores.softmax(-1).sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # (V,)
        # The first token has nothing before it, so at least one is kept.
        scores = scores.clone()
        scores[order[before >= sampling.top_p]] = -torch.inf
    if sampling.min_p:
        scores = scores.masked_fill(scores < scores.max() + math.log(sampling.min_p), -torch.inf)
    return scores.log_softmax(-1)


def choose(log_probs: Tensor, sampling: Sampling, history: Tensor, generator: torch.Generator) -> int:
    """Choose the next token; exactly one number is drawn from the generator, and none at temperature 0.

    log_probs  (V,) float    the model's log p(next token)
    history    (N,) int      the text so far, prompt included
    return     int           a token id
    """
    narrowed = narrow(log_probs.cpu(), sampling, history.cpu())
    if sampling.temperature == 0:
        return int(narrowed.argmax())
    mass = narrowed.exp().cumsum(-1)  # (V,)
    point = torch.rand(1, dtype=torch.float64, generator=generator) * mass[-1]
    # right=True: a token without mass is never met, for its cumulative mass equals its predecessor's.
    token = int(torch.searchsorted(mass, point, right=True))
    if token < len(mass):
        return token
    # Rounding put the point at the very end: the last token that has any mass.
    return int(narrowed.isfinite().nonzero()[-1])
