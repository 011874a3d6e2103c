"""Rotary positions: a query meets a key at an angle that depends on how far apart they stand; and the waves that learned ones begin as.

Source: Su et al. 2021, eq. 34, arXiv:2104.09864. Differs: pairs are (i, i+K/2), as in the Hugging Face weights.
Leaves out: stretched rotations for texts longer than those trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_WAVE = 100.0  # the best of a few for GPT-2: see its plans


def rotation(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Compute the cosine and the signed sine by which each position turns a head.

    positions   (..., T) int    place of each token in its text
    head_width  int             K, even
    theta       float           the slowest pair turns once in about 2 pi theta tokens
    return      two (..., T, K) float32: cosines, and sines with the first half negated
    """
    pairs = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)  # (K/2,)
    angles = positions.unsqueeze(-1).float() * theta ** (-pairs / head_width)  # (..., T, K/2)
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
