"""Blocks that more than one family of models is built from: the normalisation and the gated feed-forward network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def working_dtype(x: Tensor) -> torch.dtype:
    """Give the dtype in which matrix products of x come out: autocast's where it is on, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Norm(nn.Module):
    """Scale each vector to a root mean square of one, then each of its numbers by a learned weight.

    Computed in float32 whatever the input, as in the Hugging Face models. Source: Zhang and Sennrich 2019, eq. 4, arXiv:1910.07467.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis.

        x       (..., D) float
        return  (..., D) float, of the dtype in which products of x come out
        """
        dtype, wide = working_dtype(x), x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)  # (..., 1)
        return (wide * scale).to(dtype) * self.weight.to(dtype)


class GatedMLP(nn.Module):
    """The SwiGLU feed-forward network: down(silu(gate(x)) * up(x)). Source: Shazeer 2020, eq. 6, arXiv:2002.05202."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to each position alone.

        x       (B, T, D) float
        return  (B, T, D) float
        """
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def over_table(states: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give the logits of a table's rows, in the table's own precision where that is the lower.

    states  (..., D) float
    table   (V, D) float
    bias    (V,) float
    return  (..., V) float
    """
    if table.dtype == torch.bfloat16:
        states, bias = states.to(table.dtype), None if bias is None else bias.to(table.dtype)
    return F.linear(states, table, bias)
