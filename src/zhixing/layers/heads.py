"""What a task puts on top of a model's states: one answer a text, one a token, or several of these at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.layers.crf import Chain


def pool(states: Tensor, lengths: Tensor | None, way: str = "mean") -> Tensor:
    """Make one state of a text's real ones.

    states   (B, T, D)
    lengths  (B,) int     None: all are real
    way      "mean", "max" or "first"
    return   (B, D)
    """
    if way == "first":
        return states[:, 0]
    if lengths is None:
        return states.mean(1) if way == "mean" else states.amax(1)
    real = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]  # (B, T, 1)
    if way == "max":
        return states.masked_fill(~real, -torch.inf).amax(1)
    return (states * real).sum(1) / lengths[:, None]


class Pooled(nn.Module):
    """One answer a text: a linear map of its pooled states, starting at zero, so that every answer is equally likely.

    outputs  int    labels, or numbers
    """

    def __init__(self, width: int, outputs: int, pooling: str = "mean") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.pooling = pooling

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give (B, outputs) from (B, T, D) states."""
        return F.linear(pool(states, lengths, self.pooling), self.weight, self.bias)


class Each(nn.Module):
    """One answer a token: a linear map of every state, starting at zero."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give (B, T, outputs) from (B, T, D) states."""
        return F.linear(states, self.weight, self.bias)


class Several(nn.Module):
    """Several heads on the same states: what each makes of them, by its name."""

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Give {name: what that head gives} from (B, T, D) states."""
        return {name: head(states, lengths) for name, head in self.heads.items()}


class Direction(nn.Module):
    """A text as a vector of length one: its pooled states, with nothing to learn."""

    def __init__(self, pooling: str = "mean") -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give (B, D) float32 from (B, T, D) states."""
        return F.normalize(pool(states, lengths, self.pooling).float(), dim=1)


def named(head: nn.Module, made: Tensor | Mapping[str, Tensor], name: str = "answers") -> dict[str, Tensor]:
    """Give what a head made, by name, with all that an answer is read out of.

    made    what the head gave
    return  {"answers": (B, outputs)}; of a chain {"tags": (B, T, K), "transitions": (K, K), "start": (K,)}; of several, those of each part,
            under the part's name in place of "answers"
    """
    if isinstance(head, Several):
        return {key: value for part, each in head.heads.items() for key, value in named(each, made[part], part).items()}
    if isinstance(head, Chain):
        transitions, start = head.chain()
        return {"tags": made, "transitions": transitions, "start": start}
    return {name: made}
