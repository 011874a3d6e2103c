"""Contrast: which text of the batch belongs to which picture, and which picture to which text.

The loss of a pair is over all others of its batch: it is no sum over rows, k micro-batches are not one batch, and it is refused where
losses must add up. Source: Radford et al. 2021, section 2.3, arXiv:2103.00020. Differs: another row with the very same text or picture is
no wrong answer, and is left out of the row's others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from zhixing.layers.kinds import inputs_of
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
        alike = torch.zeros_like(logits, dtype=torch.bool)
        for keys in (batch["image_keys"], batch["text_keys"]):
            alike |= keys[:, None] == keys
        logits = logits.masked_fill(alike.fill_diagonal_(False), -torch.inf)
        own = torch.arange(len(logits), device=logits.device)
        both = F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.mT, own, reduction="sum")
        return (Term("nats", both / 2),)
