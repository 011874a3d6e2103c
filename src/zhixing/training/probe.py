"""Where the head of a classifier begins that stands on a body trained before: at the logistic regression on the body's states as they are.

A head that starts at zero sends noise into good weights until it has learnt something; and of few rows the regression alone is hard to
beat. It is fitted, not trained: one convex problem over the pooled states of the training rows, before step 0; the strength of its prior is
the best on validation. Under privacy there is none, for it sees every row.
Source: Kumar et al. 2022, arXiv:2202.10054 (linear probing, then fine-tuning).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zhixing.data.stream import Rows
from zhixing.layers.heads import Pooled, pool
from zhixing.layers.kinds import Headed
from zhixing.objectives.labels import LabelNats
from zhixing.tasks.reading import read_out
from zhixing.training.ready import Plan

STRENGTHS = (1.0, 0.1, 0.01)  # of the prior, on states that are of length 1 in the mean; the middle one where nothing is held out
STEPS = 300  # of L-BFGS


class _States(nn.Module):
    """The pooled states as they are, in the place of a head."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give (B, D) from (B, T, D) states."""
        return pool(states, lengths, self.pooling)


def fits(model: nn.Module, plan: Plan) -> bool:
    """Say whether a model is a classifier on a body that was trained before."""
    asked = plan.settings.start and not plan.settings.epsilon and isinstance(plan.stream, Rows)
    return bool(asked and isinstance(model, Headed) and type(model.head) is Pooled and isinstance(plan.task.objective(), LabelNats))


def set_head(model: Headed, plan: Plan, tell: Callable[..., None]) -> None:
    """Put the regression's weights into the head, where the model is such a classifier and its rows have two labels at least."""
    if not fits(model, plan):
        return
    head = model.head
    below = Headed(model.body, _States(head.pooling)).eval()

    def read(items: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        return read_out(below, items, plan.stream.pad_id, head.weight.shape[1]), np.array([each["label"] for each in items])

    features, labels = read(list(plan.stream.items))  # (N, D), (N,)
    held = read(list(plan.held_out.items)) if plan.held_out else None
    found = fit(features, labels, len(head.weight), held)
    if found is None:
        return
    weights, bias, strength = found
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights))
        head.bias.copy_(torch.from_numpy(bias))
    tell("train.probe", rows=len(labels), strength=strength)


def fit(
    features: np.ndarray, labels: np.ndarray, label_count: int, held: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Fit multinomial logistic regression under a Gaussian prior.

    features  (N, D) float
    labels    (N,) int     0 <= label < label_count
    held      the same of validation rows, by whose likelihood the strength is chosen
    return    (labels, D) float32 weights, (labels,) float32 bias, the strength; None: all rows have one label
    """
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(labels)
    if len(seen) < 2:
        return None
    size = max(float(np.linalg.norm(features, axis=1).mean()), 1e-12)
    best, least = None, math.inf
    for strength in STRENGTHS if held is not None else STRENGTHS[1:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that has not wholly converged is as good a beginning
            model = LogisticRegression(C=1 / strength, max_iter=STEPS).fit(features / size, labels)
        weights, bias = np.zeros((label_count, features.shape[1])), np.full(label_count, float(model.intercept_.min()))
        one = len(seen) == 2  # scikit-learn gives the log-odds of the second label only
        weights[seen] = np.stack([-model.coef_[0] / 2, model.coef_[0] / 2]) if one else model.coef_
        bias[seen] = [-model.intercept_[0] / 2, model.intercept_[0] / 2] if one else model.intercept_
        nats = 0.0
        if held is not None:
            scores = held[0] / size @ weights.T + bias
            scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
            nats = -float(scores[np.arange(len(scores)), held[1]].mean())
        if best is None or nats < least:
            best, least = (weights / size, bias, strength), nats
    return best[0].astype(np.float32), best[1].astype(np.float32), best[2]
