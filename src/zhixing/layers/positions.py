"""Rotary positions: a query meets a key at an angle that depends on how far apart they stand.

Source: Su et al. 2021, eq. 34, arXiv:2104.09864. Differs: pairs are (i, i+K/2), as in the Hugging Face weights.
Leaves out: stretched rotations for texts longer than those trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
