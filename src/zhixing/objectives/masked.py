"""Masked language modelling: an encoder tells the tokens that were hidden from it, from what stands on both sides of them.

Which places are hidden, and by what, is the stream's to say (`Masked` in data/stream.py): the objective only sees targets of -100 at every
other place. Logits are made at the hidden places alone. What is learnt are conditionals p(token | all others), of which no product is
the probability of a text.
Source: Devlin et al. 2019, section 3.1, arXiv:1810.04805.
"""

from __future__ import annotations

from dataclasses import dataclass

from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs, Masked
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.objectives.tokens import summed_nats


@dataclass(frozen=True)
class MaskedToken:
    """Cross-entropy of the hidden tokens, summed over them."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the hidden places."""
        return {"nats": float((batch["targets"] != IGNORED).sum())}

    def __call__(self, model: Masked, batch: Batch) -> Loss:
        """Sum -log p(hidden token) over the batch, in nats.

        batch   tokens (B, T) int, targets (B, T) int; optional lengths (B,) int, segments and positions (B, T) int
        """
        inputs = Inputs(batch["tokens"], batch.get("lengths"), batch.get("segments"), batch.get("positions"))
        hidden = batch["targets"] != IGNORED  # (B, T)
        states = model.states(inputs)[hidden]  # (N, D)
        return (Term("nats", summed_nats(model, states, batch["targets"][hidden])),)
