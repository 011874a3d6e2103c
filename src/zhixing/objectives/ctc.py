"""Connectionist temporal classification: log p(text | sound), summed over all ways of saying the text within the sound's states.

At each state the model says a token or nothing, the blank; a run of one token is that token once, so that a token twice needs a blank
between. The blank is the tokenizer's end token, which stands in no text. A text that its sound is too short for has no probability: the
task refuses it by name before the training begins (`tasks/transcribe.py`).
Source: Graves et al. 2006. The sums over paths are torch's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.tokens.layout import END


@dataclass(frozen=True)
class TextNats:
    """-log p(text | sound), summed over the utterances."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the utterances."""
        return {"nats": float(len(batch["targets"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(text) over the batch, in nats.

        batch   frames (B, F, C) float, frames_lengths (B,) int, targets (B, T) int
        """
        states = model.states(Inputs(None, frames=batch["frames"], frames_lengths=batch["frames_lengths"]))  # (B, F', D)
        logs = model.logits(states).float().log_softmax(-1).transpose(0, 1)  # (F', B, V)
        told = batch["targets"] != IGNORED  # (B, T)
        targets, lengths = batch["targets"].clamp(min=0), model.lengths(batch["frames_lengths"])
        return (Term("nats", F.ctc_loss(logs, targets, lengths, told.sum(1), blank=END, reduction="sum", zero_infinity=False)),)
