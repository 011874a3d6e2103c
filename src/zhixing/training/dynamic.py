"""Dynamic evaluation: a text is scored while the model learns from what it has read of it, each stretch before anything of it is learnt.

So every token is predicted from the tokens before it alone, and the sum is a code length like any other. A trained part takes one step of
the one loop after each stretch, on the window that ends there; beside the parts stands an n-gram that counts only what has been read; the
weights of all, one set for each pair of the lengths of context that the counted parts know, are fitted to what has been read.
Source: Krause et al. 2018, arXiv:1709.07432, section 3; Kuhn & De Mori 1990 (a cache beside a model). Differs: Muon and AdamW in place of
RMS-scaled descent; nothing is pulled back to the weights of before.
Leaves out: a state carried by a model without a window, which here reads its window anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zhixing.core.log import quiet
from zhixing.layers.kinds import Inputs
from zhixing.layers.machine import fast_bf16
from zhixing.layers.scoring import score
from zhixing.models.mixture import Mixture, fit_weights
from zhixing.models.ngram import NGram
from zhixing.objectives.tokens import NextToken
from zhixing.training import optim, trainer
from zhixing.training.gradients import Gradients

WINDOW = 256  # tokens that a model without a window of its own reads at once
RECENT = 0.05  # weight of what has been read before there is anything to fit it to
TRUSTED = 512  # tokens from which on weights are fitted
GROWTH = 1.05  # counts and weights are made anew whenever the text read has grown so much: all of it costs as a few passes
Tell = Callable[..., None]


@dataclass(frozen=True)
class Dynamic:
    """How a text is learnt from as it is read; the rates and the rest are in the names of `TrainSettings`.

    stretch  int, tokens    scored at once, then learnt; half of a trained part's window at most
    order    int, tokens    of the counts of what has been read
    """

    stretch: int = 64
    order: int = 6
    optimizer: str = "muon"
    learning_rate: float = 0.0001
    matrix_rate: float = 0.0003
    momentum: float = 0.9
    weight_decay: float = 0.0
    table_decay: float = 0.0
    clip: float = 1.0

    def __call__(self, model: Any, tokens: np.ndarray, end_id: int, tell: Tell = quiet) -> np.ndarray:
        """Give log p(tokens[i] | tokens[:i]) in nats for i >= 1; the model itself is left as it is.

        tokens   (N,) int        tokens[0] is the end token
        return   (N-1,) float64
        """
        tokens = np.asarray(tokens)
        own = model.parts if isinstance(model, Mixture) else (model,)
        readers = [Learner(each, tokens, self) if hasattr(each, "states") else Known(each, tokens) for each in own]
        recent = Recent(tokens, model.vocabulary, self.order, end_id)
        counted = own[model.counted] if isinstance(model, Mixture) else next((each for each in own if hasattr(each, "matched")), None)
        known = np.zeros(len(tokens) - 1, np.int64) if counted is None else counted.matched(tokens)
        lengths = 1 if counted is None else counted.config.order
        first = model.weights[known] if isinstance(model, Mixture) else np.ones((len(known), 1))  # (N-1, K)
        scores = np.empty((len(own) + 1, len(tokens) - 1))
        buckets, found = np.empty(len(known), np.int64), np.empty(len(known))
        weights, fitted = np.empty(0), 0
        stretch = min([self.stretch, *(max(1, each.window // 2) for each in readers if isinstance(each, Learner))])
        for low, high in stretches(len(known), stretch):
            for row, each in zip(scores, readers, strict=False):
                row[low:high] = each.score(low, high)
            scores[-1, low:high], matched = recent.score(low, high)
            buckets[low:high] = matched * lengths + known[low:high]
            if low >= max(TRUSTED, fitted * GROWTH):
                weights, fitted = fit_weights(scores[:, :low], buckets[:low], lengths * self.order)[0], low
            shares = np.c_[first[low:high] * (1 - RECENT), np.full(high - low, RECENT)]  # (T, K + 1)
            if fitted:
                shares = weights[buckets[low:high]]
            found[low:high] = np.logaddexp.reduce(scores[:, low:high] + np.log(shares).T, axis=0)
            for each in readers:
                each.learn(high)
            tell("evaluate.progress", tokens=high, of=len(known))
        return found


def stretches(count: int, stretch: int) -> Iterator[tuple[int, int]]:
    """Cut so many predictions into stretches: (first, end) of each."""
    for low in range(0, count, stretch):
        yield low, min(low + stretch, count)


class Known:
    """A part that stays as it is."""

    def __init__(self, model: Any, tokens: np.ndarray) -> None:
        self.scores = score(model, tokens)

    def score(self, low: int, high: int) -> np.ndarray:
        """Give log p of the predictions [low, high), in nats."""
        return self.scores[low:high]

    def learn(self, high: int) -> None:
        """Learn nothing."""


class Learner:
    """A trained part that takes a step after each stretch, on the window that ends with it; dropout is off."""

    def __init__(self, model: Any, tokens: np.ndarray, settings: Dynamic) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(True)
        self.tokens, self.step = torch.from_numpy(tokens.astype(np.int64)), 0
        self.window = model.window or WINDOW
        self.device = next(self.model.parameters()).device
        self.precision = "bf16" if fast_bf16() else "fp32"
        self.gradients = Gradients(self.model, NextToken(), self.precision, 0)
        self.optimizer = optim.build(self.model, settings, self.precision == "bf16")
        self.pace = trainer.Pace(1 << 62, warmup=0.0, decay=0.0, clip=settings.clip)

    def read(self, high: int) -> tuple[Tensor, Tensor]:
        """Give the tokens of the window that ends before `high`, and those one place later: two (1, T) int."""
        row = self.tokens[max(0, high - self.window) : high + 1].unsqueeze(0).to(self.device)
        return row[:, :-1], row[:, 1:]

    @torch.no_grad()
    def score(self, low: int, high: int) -> np.ndarray:
        """Give log p of the predictions [low, high), in nats."""
        read, wanted = self.read(high)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            states = self.model.states(Inputs(read))[0, low - high :]  # (T, D)
            logits = self.model.logits(states)  # (T, V)
        found = logits.float().log_softmax(-1).gather(1, wanted[0, low - high :, None])  # (T, 1)
        return found[:, 0].double().cpu().numpy()

    def learn(self, high: int) -> None:
        """Take a step on the window that ends before `high`."""
        read, wanted = self.read(high)
        trainer.update(self.gradients, self.model, self.optimizer, [{"tokens": read, "targets": wanted}], self.step, self.pace)
        self.step += 1


class Recent:
    """The counts of what has been read, made anew as it grows."""

    def __init__(self, tokens: np.ndarray, vocabulary: int, order: int, end_id: int) -> None:
        self.tokens, self.vocabulary, self.order, self.end_id = tokens, vocabulary, order, end_id
        self.counted, self.model = 0, None

    def score(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Give log p of the predictions [low, high), in nats, and the length of the context of each that has been read before."""
        if low >= max(1, self.counted * GROWTH):
            self.counted, read = low, self.tokens[: low + 1]
            self.model = NGram.count(
                read if read[-1] == self.end_id else np.r_[read, self.end_id], self.vocabulary, self.order, self.end_id
            )
        if self.model is None:
            return np.full(high - low, -np.log(self.vocabulary)), np.zeros(high - low, np.int64)
        start = max(0, low - self.order)
        text, skip = self.tokens[start : high + 1], low - start
        return self.model.score(text)[skip:], self.model.matched(text)[skip:]
