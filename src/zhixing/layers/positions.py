"""Rotary positions: a query meets a key at an angle that depends on how far apart they stand; and the waves that learned ones begin as.

Source: Su et al. 2021, eq. 34, arXiv:2104.09864. Differs: pairs are (i, i+K/2), as in the Hugging Face weights.
Stretched rotations, for texts longer than those first trained on, are of two sorts: all slower by one factor, or, as in Llama 3.1, only the
slow ones. Leaves out: stretches that depend on the length of the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_WAVE = 100.0  # the best of a few for GPT-2: see its plans


STRETCHES = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}


def stretched(turns: Tensor, stretch: Mapping[str, Any]) -> Tensor:
    """Slow rotations down.

    turns    (N,) float    radians a token
    stretch  {"rope_type": a name of STRETCHES, and its values by Hugging Face's names}
    return   (N,) float

    Source: Chen et al. 2023, arXiv:2306.15595 (linear); Hugging Face's rope utilities (llama3): pairs that turn less than low_freq_factor
    times within the original window are slowed, those that turn more than high_freq_factor times are not, and between them it is mixed.
    """
    slow = turns / stretch["factor"]
    if stretch["rope_type"] == "linear":
        return slow
    low, high = stretch["low_freq_factor"], stretch["high_freq_factor"]
    times = stretch["original_max_position_embeddings"] * turns / (2 * math.pi)
    kept = ((times - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * slow + kept * turns


def rotation(positions: Tensor, head_width: int, theta: float, stretch: Mapping[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """Compute the cosine and the signed sine by which each position turns a head.

    positions   (..., T) int    place of each token in its text
    head_width  int             K, even
    theta       float           the slowest pair turns once in about 2 pi theta tokens
    stretch     see `stretched`; None: not at all
    return      two (..., T, K) float32: cosines, and sines with the first half negated
    """
    pairs = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)  # (K/2,)
    turns = theta ** (-pairs / head_width)
    angles = positions.unsqueeze(-1).float() * (turns if stretch is None else stretched(turns, stretch))  # (..., T, K/2)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)  # (..., T, K)


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i+K/2) of a head by its position's angle.

    heads   (B, H, T, K) float
    cosine  (..., T, K) float    from `rotation`, broadcast over B and H
    sine    (..., T, K) float    from `rotation`
    return  (B, H, T, K) float
    """
    return heads * cosine + heads.roll(heads.shape[-1] // 2, -1) * sine


def waves(positions: int, width: int, device: torch.device) -> Tensor:
    """Give each position a vector of sines and cosines of many lengths, so that a shift in place is the same turn everywhere.

    return  (T, D) float, of mean square 1

    Source: Vaswani et al. 2017, section 3.5, arXiv:1706.03762. Differs: all sines stand before all cosines.
    """
    pairs = torch.arange(0, width, 2, device=device)[: width // 2]  # (N,), N = D / 2
    angles = torch.arange(positions, device=device).unsqueeze(1) * LONGEST_WAVE ** (-pairs / width)  # (T, N)
    return F.pad(2**0.5 * torch.cat([angles.sin(), angles.cos()], -1), (0, width % 2))  # (T, D)
