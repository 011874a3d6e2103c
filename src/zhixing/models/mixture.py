"""A mixture of language models whose weights depend on how much of the context the counted part has seen before.

Where training saw a long context, counts are sharp; where it did not, a trained model carries over. So the weights are one set for each
length of the n-gram part's longest matched context, fitted on validation text. Any number of parts of either kind can be mixed.
Source: Jelinek & Mercer 1980 (weights by bucket of context, fitted by EM on held-out text). Leaves out: weights that depend on words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zhixing.core.errors import DataError, UsageError
from zhixing.layers.kinds import Cache, Causal, Countable, Inputs, next_log_probabilities
from zhixing.layers.scoring import score
from zhixing.models import catalog
from zhixing.models.llama import Llama

TRAINED = "qwen3"  # the trained part, when a mixture is trained from nothing
PRIOR = 20.0  # tokens: how many a bucket needs before its own evidence weighs as much as the global weights
EM_STEPS = 100
EM_TOLERANCE = 1e-9  # nats per token


@dataclass(frozen=True)
class MixtureConfig:
    """The configurations of the parts; the fitted weights stand among the tensors."""

    parts: tuple[dict[str, Any], ...]
    model_type: str = "mixture"


@dataclass(frozen=True)
class MixtureCache:
    """The caches of the parts, in their order."""

    parts: tuple[Cache, ...]

    def rows(self, index: Tensor) -> MixtureCache:
        """Return the caches of the chosen rows."""
        return MixtureCache(tuple(part.rows(index) for part in self.parts))

    def join(self, other: MixtureCache) -> MixtureCache:
        """Return the caches of this one's rows and then the other's."""
        return MixtureCache(tuple(mine.join(theirs) for mine, theirs in zip(self.parts, other.parts, strict=True)))

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of each row."""
        for part in self.parts:
            part.crop(length)


class Mixture:
    """p(y | x) = sum over k of w[m(x), k] p_k(y | x), where m(x) is the counted part's longest matched context; a Countable kind.

    parts    K models over one vocabulary, at least one of them with `matched`; the first such gives m
    weights  (order, K) float64, of the counted part; each row sums to 1
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"mixture": Llama.PLANS[TRAINED]}
    kinds: ClassVar[tuple[str, ...]] = ("causal",)

    def __init__(self, parts: Sequence[Causal | Countable], weights: np.ndarray) -> None:
        self.parts = tuple(parts)
        self.weights = np.asarray(weights, np.float64)
        self.counted = find_counted(self.parts)
        self.vocabulary = self.parts[0].vocabulary
        if self.weights.shape != (self.parts[self.counted].config.order, len(self.parts)):
            raise UsageError("mixture.weights", shape=self.weights.shape, parts=len(self.parts))

    @property
    def window(self) -> int | None:
        """How far back the part with the shortest window may look; None: all the way."""
        windows = [each for each in (getattr(part, "window", None) for part in self.parts) if each is not None]
        return min(windows, default=None)

    @property
    def config(self) -> MixtureConfig:
        """The configuration: those of the parts."""
        return MixtureConfig(tuple(catalog.config(part) for part in self.parts))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config of the part that is trained; the other is counted."""
        return {**Llama.configure(settings, vocabulary, longest), "model_type": TRAINED}

    @classmethod
    def fit(
        cls,
        parts: Sequence[Causal | Countable],
        tokens: np.ndarray,
        scores: Sequence[np.ndarray] | None = None,
        prior: float = PRIOR,
    ) -> Mixture:
        """Fit the weights on text that no part was trained on.

        tokens  (N,) int                   validation tokens, tokens[0] the end token
        scores  K of (N-1,) float64, nats  the parts' scores of these tokens, where they are known already
        prior   float, tokens              see `fit_weights`
        """
        counted = parts[find_counted(parts)]
        if scores is None:
            scores = [score(part, tokens) for part in parts]
        weights, _ = fit_weights(np.stack(scores), counted.matched(tokens), counted.config.order, prior)
        return cls(parts, weights)

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Give log p(tokens[i] | tokens[:i]) in nats for i >= 1.

        tokens  (N,) int         tokens[0] is the end token
        return  (N-1,) float64
        """
        return self.mix([score(part, tokens) for part in self.parts], self.parts[self.counted].matched(tokens))

    def mix(self, scores: Sequence[np.ndarray], matched: np.ndarray) -> np.ndarray:
        """Mix scores that the parts gave already.

        scores   K of (N-1,) float64, nats
        matched  (N-1,) int             length of the counted part's longest matched context
        return   (N-1,) float64
        """
        return np.logaddexp.reduce(np.stack(scores) + np.log(self.weights)[matched].T, axis=0)

    def cache(self, rows: int) -> MixtureCache:
        """Return empty caches of so many rows."""
        return MixtureCache(tuple(part.cache(rows) for part in self.parts))

    def log_probabilities(self, inputs: Inputs, cache: MixtureCache | None = None) -> Tensor:
        """Give log p(next token | tokens so far) and add the new tokens to the caches.

        return  (B, V) float32
        """
        cache = self.cache(len(inputs.tokens)) if cache is None else cache
        each = [next_log_probabilities(part, inputs, held) for part, held in zip(self.parts, cache.parts, strict=True)]
        matched = self.parts[self.counted].matched_next(cache.parts[self.counted])  # (B,)
        weights = torch.from_numpy(np.log(self.weights)[matched]).to(each[0].device)  # (B, K)
        stacked = torch.stack(each, 1).double() + weights[:, :, None]  # (B, K, V)
        return stacked.logsumexp(1).float()

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return {"model_type": self.config.model_type, "parts": list(self.config.parts)}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights and the parts' tensors, each part's below `parts.<k>.`."""
        saved = {"weights": torch.from_numpy(self.weights.copy())}
        for k, part in enumerate(self.parts):
            saved |= {f"parts.{k}.{name}": torch.as_tensor(tensor) for name, tensor in catalog.tensors(part).items()}
        return saved

    @classmethod
    def from_tensors(cls, config: MixtureConfig | dict[str, Any], tensors: dict[str, Tensor]) -> Mixture:
        """Build the parts again from their configurations and tensors."""
        configs = config["parts"] if isinstance(config, dict) else config.parts
        parts = []
        for k, each in enumerate(configs):
            prefix = f"parts.{k}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            parts.append(catalog.restore(dict(each), own))
        return cls(parts, np.asarray(tensors["weights"], np.float64))


def find_counted(parts: Sequence[Causal | Countable]) -> int:
    """Give the place of the part whose matched contexts choose the weights; all parts must share one vocabulary."""
    if len({part.vocabulary for part in parts}) != 1:
        raise DataError("mixture.vocabulary", sizes=", ".join(str(part.vocabulary) for part in parts))
    for k, part in enumerate(parts):
        if hasattr(part, "matched"):
            return k
    raise UsageError("mixture.counted", parts=", ".join(type(part).__name__ for part in parts))


def fit_weights(scores: np.ndarray, buckets: np.ndarray, bucket_count: int, prior: float = PRIOR) -> tuple[np.ndarray, list[float]]:
    """Fit a mixture's weights by EM: first one global set g, then from it one set a bucket with a Dirichlet prior towards g.

    E:  r[i, k] = w[b(i), k] p_k(i) / sum over j of w[b(i), j] p_j(i)
    M:  w[b, k] = (sum over i in b of r[i, k] + prior * g[k]) / (N_b + prior)
    Each step raises  sum over i of log p(i) + prior * sum over b, k of g[k] log w[b, k],  each bucket's posterior under
    Dirichlet(1 + prior * g). Starting at g, the likelihood ends no lower than that of one global set, whatever the prior.

    scores   (K, N) float64, nats
    buckets  (N,) int
    return   (bucket_count, K) float64 weights, and what the bucketed EM raised, step by step
    """
    parts, count = scores.shape
    if count == 0:
        return np.full((bucket_count, parts), 1 / parts), []
    top = scores.max(0)
    p = np.exp(scores - top)  # (K, N): relative to the best part, so that none underflows everywhere

    def climb(weights: np.ndarray, bucket: np.ndarray, pull: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """weights, pull (buckets, K): the start, and pseudo-counts; raises the posterior until it stands still."""
        sizes = np.bincount(bucket, minlength=len(weights))
        trace: list[float] = []
        for _ in range(EM_STEPS):
            joint = weights[bucket].T * p  # (K, N)
            total = joint.sum(0)
            trace.append(float((np.log(total) + top).sum() + (pull * np.log(weights)).sum()))
            if len(trace) > 1 and trace[-1] - trace[-2] < EM_TOLERANCE * count:
                break
            shares = np.stack([np.bincount(bucket, weights=row, minlength=len(weights)) for row in joint / total], 1)  # (buckets, K)
            evidence = sizes[:, None] + pull.sum(1, keepdims=True)
            weights = np.where(evidence > 0, (shares + pull) / np.maximum(evidence, np.finfo(np.float64).tiny), weights)
            # A weight of exactly 0 would make log w infinite and could never grow again.
            weights = np.maximum(weights, np.finfo(np.float64).tiny)
        return weights, trace

    uniform = np.full((1, parts), 1 / parts)
    shared, _ = climb(uniform, np.zeros(count, np.int64), np.zeros((1, parts)))
    start = np.repeat(shared, bucket_count, 0)
    return climb(start, buckets, prior * start)
