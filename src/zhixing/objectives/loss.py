"""A loss is a tuple of terms, each a sum with its own denominator; the sum is divided once, over all micro-batches and ranks.

Averages of micro-batch means are the common fault of training loops with masked targets: a short micro-batch would count as much as a
long one. Here they cannot be written: an objective gives sums, and says what to divide by before it sees the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    name    what it is, as it stands in the log
    total   () float   the sum over what it counts, not yet divided
    scale   float      its share in the whole loss
    """

    name: str
    total: Tensor
    scale: float = 1.0


Loss = tuple[Term, ...]
Batch = dict[str, Any]


class Objective(Protocol):
    """What is minimised: `weights` counts each term's denominator from the batch alone; calling gives the terms' sums."""

    additive: bool

    def weights(self, batch: Batch) -> dict[str, float]:
        """Give each term's denominator in this micro-batch; a term that nothing in the batch speaks of may be left out of both."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Give the terms' sums over this micro-batch."""
