"""Reading what a headed model makes of many items: those of like length side by side, the answers in the items' order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zhixing.data.batch import pad
from zhixing.tasks.task import Item

READ_BATCH = 64  # texts read at once


def read_out(model: Any, items: Sequence[Item], pad_id: int, outputs: int) -> np.ndarray:
    """Give (N, outputs) float64: the outputs of a head that pools, one row an item.

    items  {"tokens": (T,) int}, and what else, which is not read
    """
    import torch

    from zhixing.layers.kinds import Inputs

    device = next(model.parameters()).device
    order = np.argsort([len(each["tokens"]) for each in items], kind="stable")
    found = np.zeros((len(items), outputs))
    with torch.inference_mode():
        for start in range(0, len(order), READ_BATCH):
            chosen = order[start : start + READ_BATCH]
            batch = pad([{"tokens": items[place]["tokens"]} for place in chosen], pad_id)
            tokens, lengths = (torch.as_tensor(batch[name]).to(device) for name in ("tokens", "lengths"))
            found[chosen] = model(Inputs(tokens, lengths=lengths)).double().cpu().numpy()
    return found
