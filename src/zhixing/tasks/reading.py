"""Reading what a headed model makes of many items: those of like length side by side, the answers in the items' order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zhixing.data.batch import pad, size
from zhixing.tasks.task import Item

READ_BATCH = 64  # texts read at once
READ = ("tokens", "image", "picture", "frames")


def read_out(model: Any, items: Sequence[Item], pad_id: int, outputs: int) -> np.ndarray:
    """Give (N, outputs) float64: the outputs of a head that pools, one row an item.

    items  {"tokens": (T,) int}, "image", "frames" and "picture", those that are there; nothing else is read
    """
    if hasattr(model, "run"):
        return read_arrays(model, items, pad_id, outputs)
    import torch

    from zhixing.layers.kinds import inputs_of

    device = next(model.parameters()).device
    order = np.argsort([size(each) for each in items], kind="stable")
    found = np.zeros((len(items), outputs))
    with torch.inference_mode():
        for start in range(0, len(order), READ_BATCH):
            chosen = order[start : start + READ_BATCH]
            batch = pad([{name: items[place][name] for name in READ if name in items[place]} for place in chosen], pad_id)
            inputs = inputs_of({name: torch.as_tensor(value).to(device) for name, value in batch.items()})
            found[chosen] = model(inputs).double().cpu().numpy()
    return found


def read_arrays(model: Any, items: Sequence[Item], pad_id: int, outputs: int) -> np.ndarray:
    """Give the same, of a model that reads arrays of tokens and needs no torch."""
    order = np.argsort([size(each) for each in items], kind="stable")
    found = np.zeros((len(items), outputs))
    for start in range(0, len(order), READ_BATCH):
        chosen = order[start : start + READ_BATCH]
        batch = pad([{"tokens": items[place]["tokens"]} for place in chosen], pad_id)
        found[chosen] = model.run(batch["tokens"], batch["lengths"])
    return found
