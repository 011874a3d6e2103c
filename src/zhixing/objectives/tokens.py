"""Next-token prediction: maximum likelihood of a text by the chain rule, log p(w_1..w_n) = sum_i log p(w_i | w_1..w_{i-1}).

Source: Shannon 1951; Bengio et al. 2003. Targets of -100 are not counted. The vocabulary is applied in chunks of positions, so that the
logits of a whole batch never stand in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term

IGNORED = -100
CHUNK_LOGITS = 1 << 24  # logits held at once, in numbers: 64 MiB in fp32


def summed_nats(model: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    """Sum -log p(target) over places; the vocabulary is paid for in chunks of them.

    states   (N, D) float
    targets  (N,) int        IGNORED: not counted
    return   () float
    """

    def summed(chunk: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(model.logits(chunk).float(), wanted, ignore_index=IGNORED, reduction="sum")

    rows = max(1, CHUNK_LOGITS // model.vocabulary)
    if len(targets) <= rows:
        return summed(states, targets)
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(summed, chunk, wanted, use_reentrant=False) for chunk, wanted in pieces]).sum()


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next token, summed over the targets."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the targets."""
        return {"nats": float((batch["targets"] != IGNORED).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(target) over the batch, in nats.

        batch   tokens (B, T) int, targets (B, T) int; optional segments and positions (B, T) int
        """
        inputs = Inputs(batch["tokens"], segments=batch.get("segments"), positions=batch.get("positions"))
        states = model.states(inputs)  # (B, T, D)
        return (Term("nats", summed_nats(model, states.flatten(0, 1), batch["targets"].flatten())),)
