"""Single characters: each of those seen in training is a token, the most frequent first; every other is written as its UTF-8 bytes.

Encoding is a table over the code points and NumPy alone, which makes it the fastest sort.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.layout import BYTES, FALLBACK, FIRST_BYTE, FIRST_PIECE, SPECIALS, Parts, check, merging, surrogate, write

CODE_POINTS = 0x110000


class Characters:
    """The coder of single characters.

    pieces  the bytes of each token from FIRST_PIECE on
    """

    portable = True

    def __init__(self, parts: Parts) -> None:
        letters = parts.names[FIRST_PIECE:]
        if parts.value["model"]["merges"] or any(len(name) != 1 for name in letters):
            raise ValueError("a character tokenizer holds something longer than a character")
        parts.library()  # raises when stock programs could not read the file
        self.pieces = [name.encode("utf-8") for name in letters]
        self._table = table({name: id for id, name in enumerate(letters, FIRST_PIECE)})

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: between any two characters."""
        return min(end, len(text))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids; they are spelt as one, since for short texts the calls would cost more than the characters."""
        try:
            ids = self.encode("".join(texts))
        except DataError:  # its place is to be told within its text
            return [self.encode(text) for text in texts]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64).tolist()
        if ends and len(ids) != ends[-1]:  # characters that became several bytes have moved the ends
            return [self.encode(text) for text in texts]
        return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into (N,) int32 ids."""
        return spell(self._table, text)


def spell(table: np.ndarray, text: str) -> np.ndarray:
    """Write a text character by character, those without a token as bytes.

    table   (code points,) int32
    return  (N,) int32
    """
    try:
        points = np.frombuffer(text.encode("ascii"), np.uint8) if text.isascii() else np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError as problem:
        raise surrogate(problem) from None
    ids = table.take(points, mode="clip")  # (N,); every code point is in the table, and checking each would take half the time
    return fall(points.astype(np.int64), ids) if len(ids) and ids.min() < 0 else ids


def table(ids: dict[str, int]) -> np.ndarray:
    """Give the id of each code point, (code points,) int32; -1 where a character has none."""
    found = np.full(CODE_POINTS, -1, dtype=np.int32)
    found[np.array([ord(letter) for letter in ids], dtype=np.int64)] = np.array(list(ids.values()), dtype=np.int32)
    return found


def fall(points: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Replace the characters that have no token by their UTF-8 bytes.

    points, ids  (N,) int    code points; token ids, -1 where there is none
    return       (found,) int32
    """
    missing = ids < 0
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)  # (N,)
    sizes[~missing] = 1
    ends = np.cumsum(sizes)
    out = np.repeat(ids, sizes)  # (found,)
    for size, lead in ((1, 0), (2, 0xC0), (3, 0xE0), (4, 0xF0)):
        rows = np.flatnonzero(missing & (sizes == size))
        point, start = points[rows], ends[rows] - size
        out[start] = FIRST_BYTE + (lead | point >> 6 * (size - 1))
        for place in range(1, size):
            out[start + place] = FIRST_BYTE + (0x80 | point >> 6 * (size - 1 - place) & 0x3F)
    return out


def rank(counts: Counter[str], minimum_count: int = 1) -> list[str]:
    """Order strings by count, the most frequent first, equal counts by code point."""
    return [each for _, each in sorted((-count, each) for each, count in counts.items() if count >= minimum_count)]


def train(texts: Iterable[str], limit: int | None, minimum_count: int, tell: Callable[..., None]) -> bytes:
    """Make the `tokenizer.json` of single characters; see `train_characters`."""
    if minimum_count < 1 or (limit is not None and limit < 0):
        raise UsageError("tokens.settings", limit=limit, minimum_count=minimum_count)
    counts: Counter[str] = Counter()
    for text in texts:
        check(text)
        counts.update(text)
    if not counts:
        raise DataError("tokens.no_text")
    letters = rank(counts, minimum_count)[:limit]
    tell("tokens.characters", kept=len(letters), seen=len(counts))
    names = [*SPECIALS, *BYTES, *letters]
    return write(merging({name: id for id, name in enumerate(names)}, [], True), None, FALLBACK)
