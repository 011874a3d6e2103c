"""The table by which SentencePiece makes letters alike, as a `tokenizer.json` carries it: a trie of what is replaced, and by what.

The library walks it unchecked and ends its thread where a place lies outside, so every walk that a text could ask for is taken here first.
Form: how many bytes the trie has, 4 bytes; its units, 4 bytes each (Yata's double array, as darts-clone writes it); then all replacements,
each ended by a zero byte. Source: SentencePiece's normalizer.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np

MOST_UNITS = 1 << 20  # XLM-RoBERTa's table has some 60,000
LETTERS = np.arange(1, 256)
TOGETHER = 1 << 12  # nodes looked at at a time


def growth(coded: str) -> int:
    """Bound by how many times longer a table makes a text: the bytes of the longest replacement.

    coded  in base64

    Raises ValueError for a table that is damaged, or in which a walk would leave it.
    """
    try:
        raw = base64.b64decode(coded, validate=True)
    except (TypeError, binascii.Error):
        raise ValueError("its precompiled_charsmap is no base64") from None
    size = int.from_bytes(raw[:4], "little")
    if len(raw) < 8 or not 0 < size <= len(raw) - 4 or size % 4 or size // 4 > MOST_UNITS:
        raise ValueError("its precompiled_charsmap does not hold the trie that it tells of")
    units, texts = np.frombuffer(raw, "<u4", size // 4, 4).astype(np.int64), raw[4 + size :]
    values = _values(units)
    letters = np.frombuffer(texts.decode("utf-8").encode("utf-8") + b"\0", np.uint8)
    if (values >= len(letters)).any() or (letters[values] & 0xC0 == 0x80).any():
        raise ValueError("its precompiled_charsmap points outside of its replacements")
    ends = np.flatnonzero(letters == 0)
    return max(1, int((ends[np.searchsorted(ends, values)] - values).max(initial=0)))


def _values(units: np.ndarray) -> np.ndarray:
    """Give where each replacement begins that some text leads to.

    units   (N,) int
    return  (E,) int
    """
    offsets, labels = (units >> 10) << ((units & 512) >> 6), units & 0x800000FF
    seen = np.zeros(len(units), bool)
    nodes, found = np.array([offsets[0]]), []
    while len(nodes):
        if nodes.max() >= len(units):
            raise ValueError("its precompiled_charsmap points outside of itself")
        nodes = np.unique(nodes)
        nodes = nodes[~seen[nodes]]
        seen[nodes] = True
        below = []
        for start in range(0, len(nodes), TOGETHER):
            places = nodes[start : start + TOGETHER, None] ^ LETTERS  # (N, 255)
            if places.max() >= len(units):
                raise ValueError("its precompiled_charsmap points outside of itself")
            taken = places[labels[places] == LETTERS]
            bases = taken ^ offsets[taken]
            leaves = bases[(units[taken] & 256) > 0]
            if (leaves >= len(units)).any():
                raise ValueError("its precompiled_charsmap points outside of itself")
            found.append(units[leaves] & 0x7FFFFFFF)
            below.append(bases)
        nodes = np.concatenate(below) if below else np.zeros(0, np.int64)
    return np.concatenate(found) if found else np.zeros(0, np.int64)
