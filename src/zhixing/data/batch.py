"""Items of several lengths become rectangular arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAIN = "tokens"  # the array whose lengths are plain `lengths`
IGNORED = -100  # fills up what is to be told, which no objective counts
TOLD = ("targets", "tags")


def size(item: dict[str, Any]) -> int:
    """Give an item's length: of its tokens or, where it has none, of its longest array.

    Items with a picture are all alike but for their sound: beside it a text costs little, and a batch of texts of one length would hold
    one sort of question.
    """
    if "image" in item:
        return len(item.get("frames", ()))
    if MAIN in item:
        return len(item[MAIN])
    return max((len(each) for each in item.values() if np.ndim(each)), default=1)


def pad(items: Sequence[dict[str, Any]], pad_id: int) -> dict[str, np.ndarray]:
    """Put items side by side, shorter ones filled up on the right.

    items   {"tokens": (T,) int, "label": int or float (optional)}, or any other arrays and numbers by name, the same in all items
    return  (B, T) int64 of each run of integers, filled up with -100 where it is told ("targets", "tags") and with the pad id elsewhere;
            the lengths of "tokens" as "lengths" (B,) int64, of "source" as "source_lengths", and so on; (B, N) float32 of each run of
            floats, which all have one length; (B, F, C) float32 of (F, C) frames, filled up with zeros, and their lengths; (B, C, Y, X)
            of images, which all have one size; (B,) int64 or float32 of each number, its name with an s
    """
    arrays: dict[str, np.ndarray] = {}
    for name in items[0] if items else (MAIN,):
        values = [each[name] for each in items]
        if values and np.ndim(values[0]) == 0:
            numbers = np.array(values)  # (B,)
            arrays[name + "s"] = numbers.astype(np.float32 if numbers.dtype.kind == "f" else np.int64)
        elif np.ndim(values[0]) == 3:
            arrays[name] = np.stack(values)  # (B, C, Y, X)
        elif np.ndim(values[0]) == 2:
            lengths = np.array([len(each) for each in values], dtype=np.int64)  # (B,)
            frames = np.zeros((len(items), max(1, int(lengths.max(initial=0))), values[0].shape[1]), np.float32)  # (B, F, C)
            for row, each in zip(frames, values, strict=True):
                row[: len(each)] = each
            arrays[name], arrays[f"{name}_lengths"] = frames, lengths
        elif values and np.asarray(values[0]).dtype.kind == "f":
            arrays[name] = np.stack(values).astype(np.float32)  # (B, N)
        else:
            lengths = np.array([len(each) for each in values], dtype=np.int64)  # (B,)
            rows = np.full((len(items), max(1, int(lengths.max(initial=0)))), IGNORED if name in TOLD else pad_id, dtype=np.int64)  # (B, T)
            for row, each in zip(rows, values, strict=True):
                row[: len(each)] = each
            arrays[name] = rows
            if name not in TOLD:
                arrays["lengths" if name == MAIN else f"{name}_lengths"] = lengths
    return arrays
