"""Activations that torch has no fast kernel for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_new(x: Tensor) -> Tensor:
    """Give the GELU in its tanh form, as GPT-2 has it.

    In training in bfloat16 on a CPU it is the erf form: the two differ by less than 0.0005, and bfloat16 rounds by more wherever the value
    is above 0.25; its kernel takes a third of the other's time and less. Source: Hendrycks and Gimpel 2016, section 2.

    x       (...) float
    return  (...) float
    """
    rounded = x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
    return F.gelu(x, approximate="none" if rounded else "tanh")
