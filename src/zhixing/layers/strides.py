"""Strided convolutions over frames: a sound becomes few states. What lies beyond a row's length is nought before and after each of them.

Source: Radford et al. 2023, section 2.2, arXiv:2212.04356 (convolutions before the blocks). Differs: three of them, each halving.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALVES = 3
WIDE = 5  # frames that one convolution sees


class Halving(nn.Module):
    """A convolution that halves a row, its weight kept as a matrix: see `pictures.Convolution`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(width, channels * WIDE))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, D, F') from (B, C, F)."""
        return F.conv1d(x, self.weight.view(-1, self.channels, WIDE), self.bias, stride=2, padding=WIDE // 2)


class Strides(nn.Module):
    """Convolutions that halve the frames, HALVES times."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Halving(bins if place == 0 else width, width) for place in range(HALVES))

    @staticmethod
    def lengths(frames: Any) -> Any:
        """Say how many states come of so many frames, an int or a tensor of them."""
        for _ in range(HALVES):
            frames = (frames + 1) // 2
        return frames

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Give (B, T, D) states of (B, F, C) frames, and how many of each row are real, (B,) int or None: all."""
        x = frames.mT  # (B, C, F)
        for layer in self.layers:
            x = F.gelu(layer(x if lengths is None else x * (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]))
            lengths = None if lengths is None else (lengths + 1) // 2
        return x.mT, lengths

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin with matrices as large as their inputs ask."""
        for each in self.layers:
            each.weight.normal_(0.0, (2 / each.weight.shape[1]) ** 0.5)
            each.bias.zero_()
