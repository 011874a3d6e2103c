"""Connectionist temporal classification: log p(text | sound), summed over all ways of saying the text within the sound's states.

At each state the model says a token or nothing, the blank; a run of one token is that token once, so that a token twice needs a blank
between. The blank is the tokenizer's end token, which stands in no text. A text that its sound is too short for has no probability: the
task refuses it by name before the training begins (`tasks/transcribe.py`).
Source: Graves et al. 2006. The sums over paths are torch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.data.batch import IGNORED
from zhixing.layers.augment import at_lengths, paced
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
        told = batch["targets"] != IGNORED  # (B, T)
        frames, lengths = self._heard(model, batch, told)
        states = model.states(Inputs(None, frames=frames, frames_lengths=lengths))  # (B, F', D)
        logs = model.logits(states).float().log_softmax(-1).transpose(0, 1)  # (F', B, V)
        targets, lengths = batch["targets"].clamp(min=0), model.lengths(lengths)
        return (Term("nats", F.ctc_loss(logs, targets, lengths, told.sum(1), blank=END, reduction="sum", zero_infinity=False)),)

    def _heard(self, model: nn.Module, batch: Batch, told: Tensor) -> tuple[Tensor, Tensor]:
        """Give frames and lengths; in training at another pace, where that leaves the states that the text needs."""
        frames, lengths, targets = batch["frames"], batch["frames_lengths"], batch["targets"]
        if not model.training or model.config.augment <= 0:
            return frames, lengths
        needed = told.sum(1) + ((targets[:, 1:] == targets[:, :-1]) & told[:, 1:]).sum(1)  # (B,): one a token, a blank between equal ones
        sizes = paced(lengths, model.config.augment)
        sizes = torch.where(model.lengths(sizes) < needed, lengths, sizes)
        return at_lengths(frames, lengths, sizes), sizes
