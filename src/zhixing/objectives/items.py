"""What comes next in a history, or how it goes, at every place of it: maximum likelihood by the chain rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.objectives.tokens import IGNORED, summed_nats


@dataclass(frozen=True)
class NextItem:
    """Cross-entropy of the next item, summed over the places of every history.

    longest  places that are read at once; of a longer history, each piece begins anew with the item before it
    last     judge the last place of each history only, by the places before it: what stands farther before may be what was learnt from
    """

    longest: int
    last: bool = False
    additive: bool = True

    @property
    def held(self) -> NextItem:
        """The objective by which what is held out is judged."""
        return NextItem(self.longest, last=True)

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the places."""
        return {"nats": float(len(batch["targets"]) if self.last else (batch["targets"] != IGNORED).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(item) over the batch, in nats.

        batch   tokens (B, T) int, lengths (B,) int, targets (B, T) int with IGNORED beyond a row's length
        """
        tokens, targets, lengths = batch["tokens"], batch["targets"], batch["lengths"]
        T = tokens.shape[1]
        if self.last:
            begin = (lengths - self.longest).clamp(min=0)  # (B,)
            places = (begin[:, None] + torch.arange(min(T, self.longest), device=tokens.device)).clamp(max=T - 1)
            states = model.states(Inputs(tokens.gather(1, places)))  # (B, longest, D)
            rows, end = torch.arange(len(tokens), device=tokens.device), lengths - 1
            return (Term("nats", summed_nats(model, states[rows, end - begin], targets[rows, end])),)
        total = tokens.new_zeros((), dtype=torch.float32)
        for start in range(0, T, self.longest):
            part = (lengths > start, slice(start, start + self.longest))
            total = total + summed_nats(model, model.states(Inputs(tokens[part])).flatten(0, 1), targets[part].flatten())
        return (Term("nats", total),)


def before(items: Tensor, correct: Tensor) -> Tensor:
    """Give what stands before each place: the start, token 0, and then item k gone wrong as 2k + 1 or gone right as 2k + 2.

    items    (B, T) int
    correct  (B, T) int, 0 or 1
    return   (B, T) int
    """
    return F.pad(1 + 2 * items + correct, (1, 0))[..., :-1]


def odds(model: nn.Module, tokens: Tensor, items: Tensor) -> Tensor:
    """Give the log-odds that each item goes right: that it is the next item is known, so only its own two tokens are compared.

    tokens  (B, T) int      what stands before each place
    items   (B, T) int
    return  (B, T) float
    """
    logits = model.logits(model.states(Inputs(tokens))).float()  # (B, T, V)
    both = logits.gather(2, torch.stack([1 + 2 * items, 2 + 2 * items], 2))  # (B, T, 2)
    return both[..., 1] - both[..., 0]


@dataclass(frozen=True)
class NextAnswer:
    """Cross-entropy of whether each item goes right, from the items before it, summed over the places that have an answer.

    longest  places that are read at once; of a longer history, each piece begins anew with the place before it
    """

    longest: int
    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the answers."""
        return {"nats": float(batch["correct_lengths"].sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(answer) over the batch, in nats.

        batch   items (B, T) int, correct (B, T) or (B, T-1) int, correct_lengths (B,) int
        """
        items, lengths = batch["items"], batch["correct_lengths"]
        T = items.shape[1]
        correct = F.pad(batch["correct"], (0, T - batch["correct"].shape[1]))  # (B, T)
        tokens, told = before(items, correct), torch.arange(T, device=items.device) < lengths[:, None]  # both (B, T)
        total = items.new_zeros((), dtype=torch.float32)
        for start in range(0, T, self.longest):
            part = (lengths > start, slice(start, start + self.longest))
            right = odds(model, tokens[part], items[part])
            total = total + F.binary_cross_entropy_with_logits(right, correct[part].float(), told[part].float(), reduction="sum")
        return (Term("nats", total),)
