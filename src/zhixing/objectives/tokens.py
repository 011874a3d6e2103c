"""Next-token prediction: maximum likelihood of a text by the chain rule, log p(w_1..w_n) = sum_i log p(w_i | w_1..w_{i-1}).

Source: Shannon 1951; Bengio et al. 2003. Given another text or a sound, the source, it is that of log p(text | source), as in Sutskever et
al. 2014. Targets of -100 are not counted, and nothing is computed for them above the states. The vocabulary is applied in chunks of
positions, so that the logits of a whole batch never stand in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.core.errors import UsageError
from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term

CHUNK_LOGITS = 1 << 23  # logits held at once, in numbers: 32 MiB in fp32
CARD_SHARE, CARD_LOGITS = 32, 1 << 29  # of a GPU's memory, a part for one chunk's logits in fp32, and at most so many of them


class ChunkedNats(torch.autograd.Function):
    """Sum a function of states and targets over chunks of places; each chunk's gradients are made at once, while its logits stand.

    So nothing is computed twice, as it would be if the logits were made again for the backward pass.
    Source: Hsu et al. 2024, "Liger Kernel", section 3.2, its fused linear cross-entropy; here for any function, by autograd.

    parameters  everything that the function may depend on beside the states
    """

    @staticmethod
    def forward(
        ctx: Any, summed: Callable[[Tensor, Tensor], Tensor], rows: int, states: Tensor, targets: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Give the sum, and keep the gradients.

        summed  (n, D), (n,) -> ()
        states  (N, D) float
        """
        total = torch.zeros((), device=states.device)
        of_states = torch.empty_like(states)
        kept: list[Tensor | None] = [None] * len(parameters)
        place = 0
        for chunk, wanted in zip(states.split(rows), targets.split(rows), strict=True):
            with torch.enable_grad():
                leaf = chunk.detach().requires_grad_()
                value = summed(leaf, wanted)
            of_states[place : place + len(chunk)], *others = torch.autograd.grad(value, (leaf, *parameters), allow_unused=True)
            total += value.detach()
            del value, leaf  # their graph goes, and each gradient as it is added
            for number in range(len(others)):
                kept[number] = _added(kept, number, others.pop(0))
            place += len(chunk)
        ctx.kept = [of_states, *kept]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Give the kept gradients times the scale, once; the scale is rounded to no shorter form."""
        of_states, *others = (
            each if each is None else each.mul_(scale) if each.dtype == torch.float32 else (each.float() * scale).to(each.dtype)
            for each in ctx.kept
        )
        del ctx.kept
        return None, None, of_states, None, *others


def _added(kept: list[Tensor | None], number: int, other: Tensor | None) -> Tensor | None:
    """Add a gradient to the one that is kept at a place; where none is, it is kept itself, or a copy if another holds the same memory."""
    mine = kept[number]
    if other is None:
        return mine
    if mine is not None:
        return mine.add_(other)
    shared = any(each is not None and each.data_ptr() == other.data_ptr() for each in kept)
    return other.clone() if shared or not other.is_contiguous() else other


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Give how many places' logits stand in memory at once: few on a CPU, whose caches they should not leave far behind."""
    most = CHUNK_LOGITS
    if device.type == "cuda":
        most = max(most, min(CARD_LOGITS, torch.cuda.get_device_properties(device).total_memory // CARD_SHARE // 4))
    return max(1, most // vocabulary)


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

    rows = chunk_rows(model.vocabulary, states.device)
    if len(targets) <= rows:
        return summed(states, targets)
    if torch.is_grad_enabled():
        return ChunkedNats.apply(summed, rows, states, targets, *(p for p in model.parameters() if p.requires_grad))
    return torch.stack([summed(*pair) for pair in zip(states.split(rows), targets.split(rows), strict=True)]).sum()


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
                source (B, S) int and source_lengths (B,) int, or frames (B, F, C) float
        """
        source = Inputs(batch["source"], batch.get("source_lengths")) if "source" in batch else None
        source = Inputs(None, frames=batch["frames"]) if "frames" in batch else source
        inputs = Inputs(batch["tokens"], segments=batch.get("segments"), positions=batch.get("positions"), source=source)
        states = model.states(inputs)  # (B, T, D)
        smoothing = self.smoothing if model.training else 0.0
        return (Term("nats", summed_nats(model, states.flatten(0, 1), batch["targets"].flatten(), smoothing)),)
