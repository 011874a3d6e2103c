"""Items of several lengths become rectangular arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def pad(items: Sequence[dict[str, Any]], pad_id: int) -> dict[str, np.ndarray]:
    """Put items side by side, shorter ones filled up on the right.

    items   {"tokens": (T,) int, "label": int or float (optional)}
    return  {"tokens": (B, T) int64, "lengths": (B,) int64, "labels": (B,) int64 or float32 when the items have labels}
    """
    lengths = np.array([len(each["tokens"]) for each in items], dtype=np.int64)  # (B,)
    tokens = np.full((len(items), max(1, int(lengths.max(initial=0)))), pad_id, dtype=np.int64)  # (B, T)
    for row, each in enumerate(items):
        tokens[row, : lengths[row]] = each["tokens"]
    arrays = {"tokens": tokens, "lengths": lengths}
    if items and "label" in items[0]:
        labels = np.array([each["label"] for each in items])  # (B,)
        arrays["labels"] = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
    return arrays
