"""Next-token prediction: maximum likelihood of a text by the chain rule, log p(w_1..w_n) = sum_i log p(w_i | w_1..w_{i-1}).

Source: Shannon 1951; Bengio et al. 2003. Given another text, the source, it is that of log p(text | source), as in Sutskever et al. 2014.
Targets of -100 are not counted, and nothing is computed for them above the states. The vocabulary is applied in chunks of positions, so
that the logits of a whole batch never stand in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zhixing.core.errors import UsageError
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term

IGNORED = -100
CHUNK_LOGITS = 1 << 24  # logits held at once, in numbers: 64 MiB in fp32


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next token, summed over the targets.

    smoothing  float    share of each target that is spread evenly over the vocabulary, while the model trains: it keeps a model from being
                        all too sure. A model that does not train is judged by plain nats. Source: Szegedy et al. 2016, section 7
    """

    smoothing: float = 0.0
    additive: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UsageError("settings.range", setting="smoothing", value=self.smoothing, origin="NextToken")

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the targets."""
        return {"nats": float((batch["targets"] != IGNORED).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(target) over the batch, in nats.

        batch   tokens (B, T) int, targets (B, T) int; optional segments and positions (B, T) int,
                source (B, S) int and source_lengths (B,) int
        """
        source = Inputs(batch["source"], batch.get("source_lengths")) if "source" in batch else None
        inputs = Inputs(batch["tokens"], segments=batch.get("segments"), positions=batch.get("positions"), source=source)
        states = model.states(inputs)  # (B, T, D)
        states = states.flatten(0, 1)  # (B*T, D)
        targets = batch["targets"].flatten()  # (B*T,)
        counted = targets != IGNORED  # (B*T,)
        if not bool(counted.all()):
            states, targets = states[counted], targets[counted]
        smoothing = self.smoothing if model.training else 0.0

        def summed(chunk: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(model.logits(chunk).float(), wanted, reduction="sum", label_smoothing=smoothing)

        rows = max(1, CHUNK_LOGITS // model.vocabulary)
        if len(targets) <= rows:
            total = summed(states, targets)
        else:
            pieces = zip(states.split(rows), targets.split(rows), strict=True)
            total = torch.stack([checkpoint(summed, chunk, wanted, use_reentrant=False) for chunk, wanted in pieces]).sum()
        return (Term("nats", total),)
