"""Reading what a headed model makes of many items: those of like length side by side, the answers in the items' order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zhixing.data.batch import pad, size
from zhixing.tasks.task import Item

READ_BATCH = 64  # texts read at once
LEAST, LONGER = 8, 1.25  # a processor reads so many at once, or more as long as none is that much longer than the shortest
READ = ("tokens", "image", "picture", "frames")


def read_out(model: Any, items: Sequence[Item], pad_id: int, outputs: int) -> np.ndarray:
    """Give (N, outputs) float64: the outputs of a head that pools, one row an item.

    items  {"tokens": (T,) int}, "image", "frames" and "picture", those that are there; nothing else is read
    """
    found = np.zeros((len(items), outputs))
    for chosen, made in read(model, items, pad_id, "answers"):
        found[chosen] = made["answers"]
    return found


def read(model: Any, items: Sequence[Item], pad_id: int, *wanted: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Read items, those of like length side by side, by torch or by arrays alone: give which they are and what was made of them, by name.

    items   as in `read_out`
    wanted  names that must be among what is made
    return  (B,) int, and what `layers.heads.named` says, of these B items
    """
    alone = not hasattr(model, "run") and next(model.parameters()).device.type != "cpu"
    for chosen in alike([size(each) for each in items], READ_BATCH if alone else LEAST):
        batch = pad([{name: items[place][name] for name in READ if name in items[place]} for place in chosen], pad_id)
        yield chosen, model.answer(batch, *wanted) if hasattr(model, "run") else _by_torch(model, batch)


def alike(sizes: Sequence[int], least: int = LEAST) -> Iterator[np.ndarray]:
    """Divide items into groups of like length, the shortest first: what fills up the shorter ones of a group costs as much as they do.

    least   int, items    that a group has before a longer one begins another
    return  (B,) int places, of READ_BATCH items at most
    """
    order = np.argsort(sizes, kind="stable")
    start = 0
    for place in range(1, len(order) + 1):
        full = place - start == READ_BATCH
        if place == len(order) or full or (place - start >= least and sizes[order[place]] > LONGER * sizes[order[start]]):
            yield order[start:place]
            start = place


def _by_torch(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import torch

    from zhixing.layers.heads import named
    from zhixing.layers.kinds import inputs_of

    device = next(model.parameters()).device
    with torch.inference_mode():
        made = model(inputs_of({name: torch.as_tensor(value).to(device) for name, value in batch.items()}))
        return {name: value.double().cpu().numpy() for name, value in named(getattr(model, "head", None), made).items()}
