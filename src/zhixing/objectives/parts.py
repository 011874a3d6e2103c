"""Several tasks learnt by one body: each batch is of one of them, and its terms are that task's own, under its name.

A term that no example of a batch speaks of is left out, so each keeps the denominator that it has alone. The tokens that stand for the
task's name are read before every text.
Source: Caruana 1997 (several tasks on one representation); Liu et al. 2019, arXiv:1901.11504 (a batch is of one task).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from zhixing.layers.kinds import Led
from zhixing.objectives.loss import Batch, Loss, Objective


@dataclass(frozen=True)
class OfPart:
    """The objective of the part that a batch is of.

    parts  {name: objective}, in the order of the numbers by which batches name them
    """

    parts: Mapping[str, Objective]

    @property
    def additive(self) -> bool:
        """Whether the sums of all of them may be added over micro-batches."""
        return all(each.additive for each in self.parts.values())

    def weights(self, batch: Batch) -> dict[str, float]:
        """Give the denominators of the part's own terms."""
        number = int(batch["parts"][0])
        name, inner = list(self.parts.items())[number]
        return {f"{name} {term}": weight for term, weight in inner.weights(batch).items()}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum the part's own terms over the batch.

        batch  parts (B,) int, all the same; lead (B, K) int, the tokens of the part's name, and befores (B,) int, how many of a row's
               stand before it; and what the part's objective reads
        """
        number = int(batch["parts"][0])
        name, inner = list(self.parts.items())[number]
        seen = Led(model, model.head.heads[str(number)], batch["lead"][0], int(batch["befores"][0]) if "befores" in batch else 0)
        return tuple(replace(term, name=f"{name} {term.name}") for term in inner(seen, batch))
