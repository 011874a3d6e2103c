"""Classification: maximum likelihood of the label, log p(label | text), summed over examples; or of each label, where several may be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from zhixing.layers.kinds import Inputs, inputs_of
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

        batch   what is read, as in `inputs_of`, and labels (B,) int
        """
        logits = model(inputs_of(batch))  # (B, labels)
        return (Term("nats", F.cross_entropy(logits.float(), batch["labels"], reduction="sum")),)


@dataclass(frozen=True)
class BinaryNats:
    """Cross-entropy of each label's being there or not, summed over examples and labels."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the labels of all examples, there or not."""
        return {"nats": float(batch["wanted"].numel())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(there) of the labels that are, and -log p(not there) of the others, in nats.

        batch   tokens (B, T) int, lengths (B,) int, wanted (B, labels) float 0 or 1
        """
        odds = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # (B, labels)
        return (Term("nats", F.binary_cross_entropy_with_logits(odds.float(), batch["wanted"], reduction="sum")),)
