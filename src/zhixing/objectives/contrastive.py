"""Contrast: which text of the batch belongs to which picture, or to which other text; and which pairs of texts are more alike than others.

The loss of a pair is over all others of its batch: it is no sum over rows, k micro-batches are not one batch, and it is refused where
losses must add up. Source: Radford et al. 2021, section 2.3, arXiv:2103.00020. Differs: another row with the very same text or picture is
no wrong answer, and is left out of the row's others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.layers.kinds import Inputs, inputs_of
from zhixing.objectives.loss import Batch, Loss, Term


@dataclass(frozen=True)
class PairNats:
    """Cross-entropy of the partner among those of the batch, both ways, summed over the pairs."""

    additive: bool = False

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the pairs."""
        return {"nats": float(len(batch["image_keys"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(partner) over the pairs, half of it for texts given pictures and half for pictures given texts, in nats.

        batch   what is read: image (B, C, Y, X) uint8, tokens (B, T) int and lengths (B,) int; image_keys and text_keys (B,) int, equal
                where pictures or texts are
        """
        inputs = inputs_of(batch)
        logits = (model.image(inputs) @ model.text(inputs).mT).float() * model.scale()  # (B, B)
        return (Term("nats", partner_nats(logits, batch["image_keys"], batch["text_keys"])),)


def partner_nats(logits: Tensor, *keys: Tensor) -> Tensor:
    """Sum -log p(partner) over the pairs, half of it each way; a row with an equal key is no wrong answer.

    logits  (B, B) float    of each first with each second; the partners lie on the diagonal
    keys    (B,) int each
    return  () float
    """
    alike = torch.zeros_like(logits, dtype=torch.bool)
    for each in keys:
        alike |= each[:, None] == each
    logits = logits.masked_fill(alike.fill_diagonal_(False), -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.mT, own, reduction="sum")) / 2


SCALE = 20.0  # by which a cosine is multiplied to be a logit; with it, one that is .05 larger is 2.7 times as probable


@dataclass(frozen=True)
class Alike:
    """Vectors of texts by what is known of pairs: that one is more alike than another, or only that its texts belong together.

    Of pairs with scores, the cosine of a higher one is to be the larger: log(1 + sum over pairs i above j of exp(SCALE (cos j - cos i))),
    times the pairs. Of pairs without, the partner is to be nearest among the others of the batch, both ways, as in PairNats.
    Source: Su 2022 ("CoSENT"), by which sentence-transformers trains on scores; Henderson et al. 2017, arXiv:1705.00652, section 4.4.
    """

    additive: bool = False

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the pairs."""
        return {"nats": float(len(batch["alikes"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum the loss over the pairs of the batch, in nats.

        batch   tokens, others (B, T) int with lengths, others_lengths (B,) int; alikes (B,) float, NaN where there is no score;
                text_keys, other_keys (B,) int, equal where texts are
        """
        first = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # (B, D)
        second = model(Inputs(batch["others"], lengths=batch["others_lengths"]))  # (B, D)
        told = ~batch["alikes"].isnan()
        total = first.sum() * 0.0
        if told.any():
            cosines, scores = (first * second).sum(1)[told] * SCALE, batch["alikes"][told]
            gaps = (cosines[None, :] - cosines[:, None])[scores[:, None] > scores[None, :]]  # (N,)
            total = total + torch.logsumexp(torch.cat([gaps, gaps.new_zeros(1)]), 0) * len(cosines)
        if not told.all():
            logits = first[~told] @ second[~told].mT * SCALE  # (B', B')
            total = total + partner_nats(logits, batch["text_keys"][~told], batch["other_keys"][~told])
        return (Term("nats", total),)
