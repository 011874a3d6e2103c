"""Vectors of words as word2vec's text: how many there are and how wide, then a line for each, the most frequent first.

Source: the format of word2vec's program (Mikolov et al. 2013), which gensim, fastText and spaCy read. Leaves out: vectors as context.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np


def write(handle: BinaryIO, words: list[str], vectors: np.ndarray) -> None:
    """Write words and their vectors (N, D) float32, with as many digits as a float32 needs to come back."""
    handle.write(head(words, vectors))
    for word, vector in zip(words, vectors.tolist(), strict=True):
        handle.write(f"{word} {' '.join(f'{each:.9g}' for each in vector)}\n".encode())


def head(words: list[str], vectors: np.ndarray) -> bytes:
    """Give the first line."""
    return f"{len(words)} {vectors.shape[1]}\n".encode()


def begins_alike(path: Path, words: list[str], vectors: np.ndarray) -> bool:
    """Say whether a file may be one of these words and so wide vectors, written before."""
    start = head(words, vectors) + f"{words[0] if words else ''} ".encode()
    with open(path, "rb") as handle:
        return handle.read(len(start)) == start


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Read words and their vectors (N, D) float32 again."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        count, width = map(int, next(lines).split(" "))
        words, vectors = [], np.zeros((count, width), np.float32)
        for row, line in zip(vectors, lines, strict=True):
            word, *numbers = line.rstrip("\n").rsplit(" ", width)
            words.append(word)
            row[:] = [float(each) for each in numbers]
    return words, vectors
