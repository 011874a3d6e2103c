"""Sounds as other speakers might have said them: what training draws anew for each utterance, on its frames.

An utterance becomes longer or shorter as a whole (`paced`). The channel axis is stretched as by a longer or shorter vocal tract, the time
axis is bent, so that parts are said faster and others more slowly, a smooth curve over the channels is added (another microphone), and
bands of time and of channels are hidden (`augment`, which leaves lengths as they are). All draws are of torch's generator, which the loop
keys by step and micro-batch.
Source: Jaitly and Hinton 2013 (vocal tract lengths); Park et al. 2019, arXiv:1904.08779 (masks). Differs: time is bent by two waves, not at
one point; the masks' sizes are shares, for utterances are short here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PACE = 1.6  # times as long, or as short, at most
WARP = 0.1  # of the length of the vocal tract, at most
BEND = 0.03  # of an utterance's length, by which time is moved, at most
TILT, KNOTS = 0.4, 5  # deviation of the curve that is added, and its points
# Of each mask, at most. In short trainings large masks cost more than they gave: single digits of two unseen speakers, right of all, after
# nine passes: 0.86 without any change, 0.77 with two masks of 0.08 and 0.2 each, 0.84 with a warp of 0.16 alone, 0.87 with the tilt alone.
MASKS, TIME_SHARE, CHANNEL_SHARE = 1, 0.05, 0.1
# A change of frequency by a share moves a channel by that share times this curve, 1 - exp(-CURVE u) over CURVE, u its place from 0 to 1:
# on the mel scale low frequencies stand evenly and high ones by their logarithm. From 1.9 at 8 kHz to 2.5 at 16.
CURVE = 2.0


def spread(rows: int, width: float, like: Tensor) -> Tensor:
    """Draw (B, 1) float evenly between minus width and width."""
    return (2 * torch.rand(rows, 1, device=like.device) - 1) * width


def pick(frames: Tensor, places: Tensor) -> Tensor:
    """Give rows of frames at places between frames, by the line between their neighbours.

    frames  (B, F, C) float
    places  (B, F) float      0 <= place <= F - 1
    return  (B, F, C) float
    """
    low = places.floor().clamp(max=frames.shape[1] - 1)  # (B, F)
    share = (places - low).unsqueeze(2).to(frames.dtype)  # (B, F, 1)
    first = low.long()
    second = (first + 1).clamp(max=frames.shape[1] - 1)

    def at(index: Tensor) -> Tensor:
        return frames.gather(1, index.unsqueeze(2).expand(-1, -1, frames.shape[2]))

    return at(first) * (1 - share) + at(second) * share


def hide(size: Tensor, steps: int, share: float) -> Tensor:
    """Draw which steps a mask hides: a run of up to a share of each row's size.

    size    (B, 1) float    of the part of a row in which it lies
    return  (B, N) bool, N = steps
    """
    width = torch.rand_like(size) * share * size  # (B, 1)
    start = torch.rand_like(size) * (size - width)  # (B, 1)
    place = torch.arange(steps, device=size.device)  # (N,)
    return (place >= start) & (place < start + width)


def paced(lengths: Tensor, strength: float = 1.0) -> Tensor:
    """Draw how long utterances of these lengths become, said faster or more slowly, each at a pace of its own.

    lengths   (B,) int, frames
    strength  float               1: as far as PACE says; 0: not at all
    return    (B,) int, frames
    """
    pace = (spread(len(lengths), math.log(PACE) * strength, lengths)).exp().squeeze(1)  # (B,)
    return (lengths * pace).round().long().clamp(min=1)


def at_lengths(frames: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
    """Read each row's real frames at as many even places as are wanted; the pitch stays as it is.

    frames   (B, F, C) float
    lengths  (B,) int
    wanted   (B,) int
    return   (B, F', C) float, zeros beyond what is wanted
    """
    place = torch.arange(int(wanted.max()), device=frames.device)  # (F',)
    step = (lengths - 1).clamp(min=0) / (wanted - 1).clamp(min=1)  # (B,)
    places = (place * step.unsqueeze(1)).minimum((lengths - 1).clamp(min=0).unsqueeze(1))  # (B, F')
    real = (place < wanted.unsqueeze(1)).unsqueeze(2)  # (B, F', 1)
    return torch.where(real, pick(frames, places), 0.0)


def augment(frames: Tensor, lengths: Tensor | None, strength: float = 1.0) -> Tensor:
    """Change utterances as another speaker or room might.

    frames    (B, F, C) float    zeros beyond a row's length
    lengths   (B,) int           how many of a row's frames are real; None: all
    strength  float              1: as far as the constants say; 0: not at all
    return    (B, F, C) float
    """
    if strength <= 0:
        return frames
    B, F, C = frames.shape
    size = (torch.full((B, 1), F, device=frames.device) if lengths is None else lengths.unsqueeze(1)).float()  # (B, 1)
    place = torch.arange(F, device=frames.device)  # (F,)
    real = (place < size).unsqueeze(2)  # (B, F, 1)

    channel = torch.arange(C, device=frames.device) / C  # (C,)
    moved = spread(B, WARP * strength, frames) * (1 - (-CURVE * channel).exp()) / CURVE  # (B, C)
    frames = pick(frames.mT, ((channel + moved) * C).clamp(0, C - 1)).mT  # (B, F, C)

    turn = math.pi * place / size.clamp(min=1)  # (B, F)
    bent = spread(B, BEND * strength, frames) * turn.sin() + spread(B, BEND * strength / 2, frames) * (2 * turn).sin()
    frames = pick(frames, (place + bent * size).clamp(min=0).minimum(size - 1).clamp(min=0))  # (B, F, C)

    knots = torch.randn(B, KNOTS, 1, device=frames.device) * TILT * strength
    frames = frames + pick_curve(knots, C).mT  # (B, F, C)

    hidden = torch.zeros(B, F, C, dtype=torch.bool, device=frames.device)
    for _ in range(MASKS):
        hidden |= hide(size, F, TIME_SHARE * strength).unsqueeze(2)
        hidden |= hide(torch.full_like(size, C), C, min(1.0, CHANNEL_SHARE * strength)).unsqueeze(1)
    return torch.where(real & ~hidden, frames, 0.0)


def pick_curve(knots: Tensor, channels: int) -> Tensor:
    """Draw lines through points that stand evenly: (B, C, 1) from (B, N, 1)."""
    places = torch.linspace(0, knots.shape[1] - 1, channels, device=knots.device)  # (C,)
    low = places.floor().clamp(max=knots.shape[1] - 2)  # (C,)
    share = (places - low)[:, None]  # (C, 1)
    return knots[:, low.long()] * (1 - share) + knots[:, low.long() + 1] * share
