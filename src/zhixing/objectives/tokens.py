"""Next-token prediction: maximum likelihood of a text by the chain rule, log p(w_1..w_n) = sum_i log p(w_i | w_1..w_{i-1}).

Source: Shannon 1951; Bengio et al. 2003. Given another text, the source, it is that of log p(text | source), as in Sutskever et al. 2014.
Targets of -100 are not counted, and nothing is computed for them above the states. The vocabulary is applied in chunks of positions, so
that the logits of a whole batch never stand in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zhixing.core.errors import UsageError
from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term

CHUNK_LOGITS = 1 << 24  # logits held at once, in numbers: 64 MiB in fp32


def summed_nats(model: nn.Module, states: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum -log p(target) over places; the vocabulary is paid for in chunks of them, and only where there is a target.

    states     (N, D) float
    targets    (N,) int        IGNORED: not counted
    smoothing  float           share of each target that is spread evenly over the vocabulary
    return     () float
    """
    counted = targets != IGNORED  # (N,)
    if not bool(counted.all()):
        states, targets = states[counted], targets[counted]

    def summed(chunk: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(model.logits(chunk).float(), wanted, reduction="sum", label_smoothing=smoothing)

    rows = max(1, CHUNK_LOGITS // model.vocabulary)
    if len(targets) <= rows:
        return summed(states, targets)
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(summed, chunk, wanted, use_reentrant=False) for chunk, wanted in pieces]).sum()


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
        smoothing = self.smoothing if model.training else 0.0
        return (Term("nats", summed_nats(model, states.flatten(0, 1), batch["targets"].flatten(), smoothing)),)
