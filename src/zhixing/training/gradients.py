"""How gradients come about: the one seam between the loop and an objective; private gradients are another class of this form (`private`).

Each term is divided once, by its denominator over all micro-batches of the step, so that k micro-batches equal one batch.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from zhixing.core.errors import UsageError
from zhixing.core.random import key
from zhixing.objectives.loss import Batch, Objective
from zhixing.training import ranks


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors; to a GPU from pinned memory, so that nothing waits for them."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in batch.items()}
    return {name: value if value.is_cuda else value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


def refuse_parts(objective: Objective, accumulate: int) -> None:
    """Raise UsageError where the losses of parts of a step are to be added up and an objective's do not add up."""
    for setting, parts in (("accumulate", accumulate), ("ranks", max(ranks.ranks(), int(os.environ.get("WORLD_SIZE", "1"))))):
        if parts > 1 and not objective.additive:
            raise UsageError("train.not_additive", objective=type(objective).__name__, setting=setting, value=parts)


class Gradients:
    """Plain summed gradients.

    precision  "fp32", or "bf16": matrix products in bfloat16 with fp32 weights (torch.autocast)
    """

    def __init__(self, model: nn.Module, objective: Objective, precision: str, seed: int) -> None:
        self.model, self.objective, self.precision, self.seed = model, objective, precision, seed

    def begin(self, batches: list[Batch]) -> dict[str, float]:
        """Count the denominators of one step over its micro-batches, before any forward pass.

        Where the batches lie is where they are counted: in the machine's memory that does not wait for a GPU.
        """
        refuse_parts(self.objective, len(batches))
        self.model.zero_grad(set_to_none=True)
        self.weights: dict[str, float] = {}
        for batch in batches:
            for name, weight in self.objective.weights(batch).items():
                self.weights[name] = self.weights.get(name, 0.0) + weight
        self.weights = ranks.added(self.weights)
        self.totals: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}
        return self.weights

    def add(self, batch: Batch, step: int, micro: int) -> None:
        """Move a micro-batch to where the model is and add its gradients.

        The generator is keyed by (seed, step, micro), so no generator state is ever saved.
        """
        torch.manual_seed(key(self.seed, "step", step, micro * ranks.ranks() + ranks.rank()))
        device = next(self.model.parameters()).device
        batch = to_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.objective(self.model, batch)
        whole = sum(term.scale * term.total / self.weights[term.name] for term in loss)
        whole.backward()
        self.scales = {term.name: term.scale for term in loss}
        for term in loss:
            total = term.total.detach().double()
            self.totals[term.name] = self.totals[term.name] + total if term.name in self.totals else total

    def finish(self) -> dict[str, Tensor]:
        """Give each term's value over the whole step, each () float: sum over denominators; of several ranks, over all of them."""
        ranks.add_gradients(self.model)
        if ranks.ranks() > 1:
            whole = ranks.added({name: float(total) for name, total in self.totals.items()})
            self.totals = {name: torch.tensor(total, dtype=torch.float64) for name, total in whole.items()}
        return {name: total / self.weights[name] for name, total in self.totals.items()}
