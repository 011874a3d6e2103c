"""Words that stand near each other: maximum likelihood of p(context word | word), exact or by negative sampling.

skipgram  a word predicts each word near it: p(c | w) from the product of w's vector and c's context vector
cbow      the mean of the words near a place predicts the word there

A word at distance d weighs (window + 1 - d) / window: what drawing each window's radius from 1 to `window` gives on average.
With negatives, the softmax over the vocabulary gives way to telling a true pair from `negatives` pairs with a drawn word; what is learnt
then is the product of vectors = log p(c | w) / q(c) - log negatives, for draws from q.
Source: Mikolov et al. 2013, arXiv:1301.3781 and 1310.4546 (both models, negative sampling); Levy and Goldberg 2014 (what is learnt).
Differs: a row of text shares its drawn words, each weighted so that the expectation is that of `negatives` draws a pair, which makes
products of vectors products of matrices (Ji et al. 2016, arXiv:1604.04661); the radius is averaged, not drawn; a drawn word that happens
to be a true one is not taken out; a place near the end of a row of text misses what lies beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zhixing.layers.kinds import Lexical
from zhixing.objectives.loss import Batch, Loss, Term


def nearness(texts: Tensor, window: int) -> Tensor:
    """Weigh every pair of places of a row: 0 beyond the window, in another text, or with itself.

    texts   (B, T) int      which text each place belongs to
    return  (B, T, T) float32
    """
    place = torch.arange(texts.shape[1], device=texts.device)
    distance = (place[:, None] - place).abs()  # (T, T)
    weights = ((window + 1 - distance).clamp(min=0) / window).masked_fill(distance == 0, 0.0)
    return weights * (texts[:, :, None] == texts[:, None, :])


@dataclass(frozen=True)
class ContextNats:
    """The loss of telling context words, summed over the pairs (skipgram) or over the places (cbow).

    method     "skipgram" or "cbow"
    window     int, words   how far a context reaches on both sides
    negatives  int          drawn words a pair; used when the batch holds drawn words, else the softmax is exact
    """

    method: str = "skipgram"
    window: int = 5
    negatives: int = 5
    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the pairs, each as near as it is, or the places that have a context."""
        near = nearness(batch["texts"], self.window)  # (B, T, T)
        return {"nats": float(near.sum() if self.method == "skipgram" else (near.sum(2) > 0).sum())}

    def __call__(self, model: Lexical, batch: Batch) -> Loss:
        """Sum the loss over the batch, in nats.

        batch   words (B, T) int, texts (B, T) int; negatives (B, N) int, or none: the exact softmax
        """
        near = nearness(batch["texts"], self.window)  # (B, T, T)
        states, contexts = model.vectors(batch["words"]), model.contexts(batch["words"])  # both (B, T, D)
        if self.method == "cbow":
            share = near / near.sum(2, keepdim=True).clamp(min=1e-9)
            states = share @ states  # (B, T, D)
            counts = (near.sum(2) > 0).float()  # (B, T)
            scores = (states * contexts).sum(2).float()  # (B, T)
            near = counts
        else:
            counts = near.sum(2)  # (B, T)
            scores = (states @ contexts.mT).float()  # (B, T, T)
        if "negatives" not in batch:
            # Softmax over the vocabulary: -sum of near * (score - log sum exp of all scores).
            everything = (states @ model.contexts().T).float().logsumexp(2)  # (B, T)
            return (Term("nats", (everything * counts).sum() - (near * scores).sum()),)
        drawn = (states @ model.contexts(batch["negatives"]).mT).float()  # (B, T, N)
        scale = counts * (self.negatives / drawn.shape[2])  # (B, T)
        return (Term("nats", (near * F.softplus(-scores)).sum() + (scale[:, :, None] * F.softplus(drawn)).sum()),)
