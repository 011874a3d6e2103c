"""Classification: maximum likelihood of the label, log p(label | text), summed over examples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term


@dataclass(frozen=True)
class LabelNats:
    """Cross-entropy of the label, summed over the examples."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the examples."""
        return {"nats": float(len(batch["labels"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(label) over the batch, in nats.

        batch   tokens (B, T) int, lengths (B,) int, labels (B,) int
        """
        logits = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # (B, labels)
        return (Term("nats", F.cross_entropy(logits.float(), batch["labels"], reduction="sum")),)
