"""Regression: maximum likelihood of a number under noise of one size, which is least squares, summed over examples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term


@dataclass(frozen=True)
class SquaredGap:
    """The squared gap between what is said and the number, summed over the examples."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the examples."""
        return {"squares": float(len(batch["labels"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum (said - number)^2 over the batch.

        batch   tokens (B, T) int, lengths (B,) int, labels (B,) float
        """
        said = model(Inputs(batch["tokens"], lengths=batch["lengths"]))[:, 0]  # (B,)
        return (Term("squares", ((said.float() - batch["labels"]) ** 2).sum()),)
