"""Reading the segments of a row apart: for families whose states cannot be kept apart by a mask.

Each segment becomes a row of its own, which begins with nothing before it; its states are then laid back where its tokens stood.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def apart(read: Callable[[Tensor], Tensor], tokens: Tensor, segments: Tensor) -> Tensor:
    """Read each run of equal segment ids as a text of its own.

    read      (B', T') int -> (B', T', D) float    states of whole rows, whose padding follows their tokens
    tokens    (B, T) int
    segments  (B, T) int
    return    (B, T, D) float
    """
    return alone(lambda rows, _: read(rows), tokens, segments)


def alone(read: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, segments: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Read each run of equal segment ids as a text of its own whose length is told: for families that look ahead, and would see padding.

    read      (B', T') int, (B',) int -> (B', T', D) float    states of rows of these lengths
    tokens    (B, T) int
    segments  (B, T) int
    lengths   (B,) int    how many of a row's tokens are real; None: all
    return    (B, T, D) float
    """
    B, T = tokens.shape
    first = torch.ones_like(tokens, dtype=torch.bool)  # (B, T)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    if lengths is not None:
        first |= torch.arange(T, device=tokens.device) == lengths[:, None]  # the padding is no part of the last segment
    run = first.flatten().cumsum(0) - 1  # (N,), N = B * T
    starts = first.flatten().nonzero().squeeze(1)  # (B',)
    place = torch.arange(B * T, device=tokens.device) - starts[run]  # (N,), N = B * T
    rows = tokens.new_zeros(len(starts), int(place.max()) + 1)  # (B', T')
    rows[run, place] = tokens.flatten()
    return read(rows, run.bincount())[run, place].view(B, T, -1)  # (B, T, D)
