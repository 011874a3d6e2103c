"""Recurrent layers as one operation, so that a model that has them can be taken apart for rows of any length.

Traced as they are, torch writes their steps out one by one, as many as the traced row has. `models.operations` says in NumPy what the
operation means, and here it is said in ONNX's, whose gates stand in another order. Leaves out: layers that read both ways at once,
projections.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SORTS = {nn.RNN: "rnn", nn.GRU: "gru", nn.LSTM: "lstm"}
ORDERS = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}  # ONNX's gates, by their places among torch's


@torch.library.custom_op("zhixing::recurrence", mutates_args=())
def recurrence(x: Tensor, weights: list[Tensor], cell: str) -> Tensor:
    """Give the states of layers that begin at zero: x (B, T, E) to (B, T, D); weights and cell as in `models.operations.recurrence`."""
    layers, D = len(weights) // 4, weights[1].shape[1]
    start = x.new_zeros(layers, len(x), D)  # (L, B, D)
    run, begin = (torch.lstm, (start, start)) if cell == "lstm" else (torch.gru if cell == "gru" else torch.rnn_tanh, start)
    return run(x, begin, weights, True, layers, 0.0, False, False, True)[0].clone()


@recurrence.register_fake
def _(x: Tensor, weights: list[Tensor], cell: str) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weights[1].shape[1])


class Recurrence(nn.Module):
    """What stands for recurrent layers in a model that is traced."""

    def __init__(self, layers: nn.RNNBase) -> None:
        super().__init__()
        self.cell = SORTS[type(layers)]
        self.weights = nn.ParameterList(each for layer in layers.all_weights for each in layer)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Give the states of rows, (B, T, E) to (B, T, D), and no last one."""
        return recurrence(x, list(self.weights), self.cell), None


def traceable(model: nn.Module) -> nn.Module:
    """Give a model of the same weights in which recurrent layers are one operation."""
    shared: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, shared)
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in SORTS and not child.bidirectional and child.batch_first:
                setattr(parent, name, Recurrence(child))
    return found


def in_onnx(x: Any, weights: Any, cell: str) -> Any:
    """Say the operation in ONNX's own, layer after layer, for torch's exporter to call."""
    from onnxscript import opset18 as op

    run = {"rnn": op.RNN, "gru": op.GRU, "lstm": op.LSTM}[cell]
    more = {"linear_before_reset": 1} if cell == "gru" else {}
    x = op.Transpose(x, perm=[1, 0, 2])  # (T, B, E)
    for layer in range(len(weights) // 4):
        D = int(weights[4 * layer + 1].shape[1])
        order = np.concatenate([np.arange(gate * D, (gate + 1) * D) for gate in ORDERS[cell]])
        index = op.Constant(value_ints=order.tolist())
        first = op.Constant(value_ints=[0])
        inward, across, bias, beside = (op.Gather(each, index, axis=0) for each in weights[4 * layer : 4 * layer + 4])
        both = op.Unsqueeze(op.Concat(bias, beside, axis=0), first)
        made = run(x, op.Unsqueeze(inward, first), op.Unsqueeze(across, first), both, hidden_size=D, **more)
        states = made[0] if isinstance(made, list | tuple) else made
        x = op.Squeeze(states, op.Constant(value_ints=[1]))  # (T, B, D)
    return op.Transpose(x, perm=[1, 0, 2])
