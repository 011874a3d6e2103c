"""Distillation: a small model learns what a large one believes of each example, beside what is true of it.

    (1 - weight) * inner  +  weight * T^2 * KL(p_teacher^(1/T) || p_student^(1/T)),      summed over examples

The teacher is asked once, before step 0, and the batch carries its probabilities: any model that gives them can teach, a counted one too.
Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531; T^2 keeps the second term's gradients as large at every temperature.
Leaves out: teaching token by token, or by inner states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from zhixing.core.errors import UsageError
from zhixing.layers.kinds import inputs_of
from zhixing.objectives.loss import Batch, Loss, Objective, Term

LEAST = 1e-6  # of a teacher's probability: one of zero, rounded, would demand the impossible at every temperature


@dataclass(frozen=True)
class Distill:
    """Any objective of classification with a teacher beside it.

    inner        Objective   what is true: reads the model's (B, labels) logits
    weight       float       the teacher's share, 0..1
    temperature  float       above 1: what the teacher says of the less probable labels counts for more
    """

    inner: Objective
    weight: float = 0.7
    temperature: float = 2.0

    def __post_init__(self) -> None:
        for name, valid in (("weight", 0 <= self.weight <= 1), ("temperature", 0 < self.temperature < float("inf"))):
            if not valid:
                raise UsageError("settings.range", setting=f"teacher_{name}", value=getattr(self, name), origin="Distill")

    @property
    def additive(self) -> bool:
        """Whether losses of micro-batches add up: as the inner objective's do."""
        return self.inner.additive

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the inner denominators, and for the teacher the examples."""
        return {**self.inner.weights(batch), "teacher": float(len(batch["teacher"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Give the inner terms and the teacher's, from one reading of the batch.

        batch   what is read, teacher (B, labels) float: its probabilities; and what the inner objective needs
        """
        logits = model(inputs_of(batch)).float()  # (B, labels)
        wanted = (batch["teacher"].clamp(min=LEAST).log() / self.temperature).log_softmax(-1)
        said = (logits / self.temperature).log_softmax(-1)
        nats = self.temperature**2 * (wanted.exp() * (wanted - said)).sum()
        inner = self.inner(lambda inputs: logits, batch)
        return (*(replace(term, scale=term.scale * (1 - self.weight)) for term in inner), Term("teacher", nats, self.weight))
