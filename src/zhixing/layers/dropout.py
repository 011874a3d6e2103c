"""Dropout whose random numbers are cheap on a CPU: torch draws them there one by one, on one core, and a training then waits for them.

Source: Srivastava et al. 2014; numbers by SFC64 (Doty-Humphrey, PractRand), seeded from torch's own generator, so that whoever sets its
seed gets the same again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

STEPS = 1 << 16  # a share is rounded to so many parts


def kept(like: Tensor, share: float) -> Tensor:
    """Draw what each number is multiplied by: 0 for this share of them, and for the others what keeps their mean.

    like    (...) float    on a CPU; only its shape and dtype matter
    share   float          between 0 and 1
    return  (...) float
    """
    dropped = min(round(share * STEPS), STEPS - 1)
    numbers = np.random.SFC64(int(torch.randint(1 << 62, ()))).random_raw(-(-like.numel() // 4)).view(np.int16)[: like.numel()]
    stays = torch.from_numpy(numbers).view(like.shape) >= dropped - STEPS // 2
    return stays.to(like.dtype).mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Dropout):
    """Drop a share of numbers while a model trains. Under torch.func, on a GPU and for shares of 0 and 1 it is torch's own.

    p  float    the share, between 0 and 1; on a CPU it is rounded to a 65,536th
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by 0 or by 1 / (1 - p).

        x       (...) float
        return  (...) float
        """
        if not (self.training and 0 < self.p < 1) or x.device.type != "cpu" or torch._C._are_functorch_transforms_active():
            return super().forward(x)
        return x * kept(x, self.p)
