"""An encoder's attention as one operation of ONNX Runtime's, from its states to its mixed values, which it can round to eight bits as well.

Traced as it is, each of its products, shares and turned axes is an operation of its own; one row at a time, they take about as long as
what they compute. Source: `Attention` and `QAttention` of the domain com.microsoft, which ONNX Runtime has built in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zhixing.models.bert import SelfAttention


class Attention(nn.Module):
    """What stands for an encoder's attention in a model that is traced; asked for numbers, it computes them as before."""

    def __init__(self, plain: SelfAttention) -> None:
        super().__init__()
        parts = (plain.query, plain.key, plain.value)
        self.plain = plain
        self.weight = nn.Parameter(torch.cat([each.weight for each in parts]).detach().T.contiguous(), requires_grad=False)  # (D, 3 D)
        self.bias = nn.Parameter(torch.cat([each.bias for each in parts]).detach(), requires_grad=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values of rows that are padded on the right.

        x       (B, T, D) float
        mask    (B, 1, T, T) bool    a row's first place sees all that is no padding; None: everything is seen
        return  (B, T, D) float
        """
        if mask is None or not torch.compiler.is_exporting():
            return self.plain(x, mask)
        lengths = mask[:, 0, 0].sum(1, dtype=torch.int32)  # (B,)
        given, heads = (x, self.weight, self.bias, lengths), x.shape[2] // self.plain.head_width
        return torch.onnx.ops.symbolic("com.microsoft::Attention", given, {"num_heads": heads}, dtype=x.dtype, shape=x.shape, version=1)


def in_one(model: nn.Module) -> None:
    """Put one operation in the place of each encoder's attention; the model is a copy that is only read."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is SelfAttention:
                setattr(parent, name, Attention(child))
